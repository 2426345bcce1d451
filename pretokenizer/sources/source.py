"""Base class of data sources. A source chooses the files to read and converts each record to conversations.

Most sources convert each record independently, so that several processes can share their files. They derive from
RecordSource and define `convert`. A source that needs all records at once derives from Source and defines
`convert_all`. A source that draws random numbers also sets `uses_random`.
"""

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

from pretokenizer.chat.conversation import Conversation
from pretokenizer.config.settings import check_known_options
from pretokenizer.config.yaml_config import from_mapping
from pretokenizer.forms.turns import ConsecutiveRoles
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import FileLayout, HubFiles


class BadRecord(NamedTuple):
    """The reason why a record is wrong.

    The report counts and lists bad records; --strict stops the build at the first.
    """

    reason: str
    """Category of the error, by which the report counts bad records."""
    found: str = ""
    """The offending part of the record, for the message."""


Converted = list[Conversation] | str | BadRecord
"""Result of converting a record: its conversations, a reason to leave it out before the split, or its error."""
WRONG_FORM = (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError)
"""Exceptions that `convert` raises for a record of an unexpected form."""


@dataclass(frozen=True)
class NoOptions:
    """Options of a source without options."""


@dataclass(frozen=True)
class FileOption:
    """Options of a source that can read given files instead of its folder."""

    input_file_path: str | None = None
    """A file or a glob pattern to read instead of the data set's folder."""


class InputRecord(NamedTuple):
    """A record and its position in the data set."""

    file_index: int
    """Index of the record's file among the data set's files."""
    row: int
    """Row of the record in its file, from 0."""
    file_stem: str
    """Name of the record's file without suffixes and shard number, such as `train` or `en`."""
    record: Record


class Source(ABC):
    """Base class of all sources, which name the files of a data set and convert its records to conversations.

    The class variables describe the data set as Open-Assistant's code treats it.
    """

    class_name: ClassVar[str]
    """Name of the kind of data set in the statistics report `P-train_stats.txt`."""
    shows_name: ClassVar[bool] = False
    """Whether the statistics report adds the data set's own name in parentheses."""
    split: ClassVar[Literal["sklearn", "torch", "native"]] = "sklearn"
    """Rule that splits records into train and val: scikit-learn's, torch's, or `native` for separate val files."""
    independent: ClassVar[bool] = False
    """Whether each record can be converted without the others."""
    uses_random: ClassVar[bool] = False
    """Whether `convert_all` draws from the random generator that all data sets of a build share."""
    stems: ClassVar[tuple[str, ...]] = ()
    """Stems (names without suffixes and shard number) of the train files in order. Empty: files are chosen by split."""
    val_stems: ClassVar[tuple[str, ...]] = ()
    """Stems (names without suffixes and shard number) of the val files, for a `native` split."""
    hub: ClassVar[HubFiles | None] = None
    """Files on the hub that can be downloaded. None if there are none."""
    Options: ClassVar[type[Any]] = NoOptions
    """Dataclass of the source's own options."""

    used_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of a record that `convert` reads. The report lists all other keys."""

    def __init__(
        self, name: str, options: dict[str, Any], val_split: float = 0.2, consecutive_roles: ConsecutiveRoles = "allow"
    ) -> None:
        self.name = name
        self.val_split = val_split
        self.consecutive_roles = consecutive_roles
        self.unused: set[str] = set()
        """Keys of converted records that the source does not use, for the report."""
        self.irregular: Counter[str] = Counter()
        """Accepted irregularity, such as two messages of one role in a row -> number of conversations."""
        check_known_options(options, [f.name for f in fields(self.Options)], name)
        self.options: Any = from_mapping(self.Options, options, f"datasets: {name}")

    @property
    def report_name(self) -> str:
        """Name of the data set in the published statistics report, e.g. `InstructionDataset (megacode2)`."""
        return f"{self.class_name} ({self.name})" if self.shows_name else self.class_name

    @property
    def layout(self) -> FileLayout:
        """How to choose the files that the source reads."""
        path = getattr(self.options, "input_file_path", None)
        return FileLayout(path, self.stems, self.val_stems, self.split == "native", self.hub)

    def note_fields(self, record: Record) -> None:
        """Add the keys of a record that are not in `used_keys` to `unused`, which the report lists."""
        self.unused.update(record.keys() - self.used_keys)

    @abstractmethod
    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """Yield (record, conversations) for all records.

        If `independent` is False, the order of the results may differ. Instead of conversations there may be a reason
        to leave the record out, or a BadRecord. `rng` is the random generator that all data sets of a build share.
        """

    def order(self, num_records: int) -> list[int] | None:
        """Return the order, as indices, in which `num_records` records are split into train and val.

        None means the order of the files.
        """
        return None


class RecordSource(Source):
    """Base class of the sources that convert one record at a time."""

    independent = True

    @abstractmethod
    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record to conversations, or return the reason to leave it out.

        `file_stem` is the name of the record's file without suffixes and shard number. The caller turns any exception
        in WRONG_FORM into a BadRecord.
        """

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        for item in records:
            yield item, self.convert_checked(item)

    def convert_checked(self, item: InputRecord) -> Converted:
        """Convert one record to conversations, or return the reason to leave it out.

        Return a BadRecord if the form of the record or a text is wrong.
        """
        try:
            converted = self.convert(item.record, item.file_stem)
        except WRONG_FORM as error:
            return bad_record(item.record, error)
        return (wrong_text(converted) or converted) if isinstance(converted, list) else converted


def wrong_text(conversations: Iterable[Conversation]) -> BadRecord | None:
    """Return a BadRecord if a message is not a string or holds half of a surrogate pair, else None."""
    for conversation in conversations:
        for role, text, *_ in conversation.messages:
            if not isinstance(text, str):
                return BadRecord(
                    "a message is not text", f"the {role.template_name} message is of type {type(text).__name__}"
                )
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                return BadRecord("broken Unicode")
    return None


def bad_record(record: Record, error: Exception) -> BadRecord:
    """Return the BadRecord that describes a record for which `convert` raised `error`."""
    reason = f"lacks the key {error}" if isinstance(error, KeyError) else f"has an unexpected form ({error})"
    return BadRecord(reason[:120], f"its keys: {', '.join(map(str, record))}"[:200])
