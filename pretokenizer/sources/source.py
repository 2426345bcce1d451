"""The base class of data sources: which files a source reads, and how it turns a record into conversations.

Most sources convert each record independently, so several processes can share their files. A source that needs all
records at once sets `independent = False` and overrides `convert_all`. A source that draws random numbers also sets
`uses_random`.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

from pretokenizer.chat.conversation import Conversation
from pretokenizer.config.settings import check_known_options
from pretokenizer.config.yaml_config import from_mapping
from pretokenizer.records.json_text import Record
from pretokenizer.records.locate import FileLayout, HubFiles
from pretokenizer.sources.turns import ConsecutiveRoles


class BadRecord(NamedTuple):
    """Why a record is wrong. The report counts and names bad records; --strict stops the build at the first."""

    reason: str
    """A category, so that records can be counted by reason."""
    found: str = ""
    """The offending part of this record, for the message."""


Converted = list[Conversation] | str | BadRecord
"""The conversations of a record; or the reason why the record is left out before the split; or why it is wrong."""
WRONG_FORM = (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError)
"""Exceptions that `convert` raises for a record of an unexpected form."""


@dataclass(frozen=True)
class NoOptions:
    """Options of a source that has none."""


@dataclass(frozen=True)
class FileOption:
    """Options of a source that can read a single file."""

    input_file_path: str | None = None
    """One file, instead of the data set's folder."""


class InputRecord(NamedTuple):
    """A record and its position in the data set."""

    file_index: int
    """Index into the data set's files."""
    row: int
    """Row in the file, from 0."""
    file_stem: str
    """Stem of the file's name: train, test, en ..."""
    record: Record


class Source:
    """Base class of all sources. The class variables describe how the original treats the data set."""

    class_name: ClassVar[str]
    """Name in the statistics report."""
    shows_name: ClassVar[bool] = False
    """Whether the report adds the data set's name in brackets."""
    split: ClassVar[Literal["sklearn", "torch", "native"]] = "sklearn"
    """How records are split into train and val. `native`: the val records have files of their own."""
    independent: ClassVar[bool] = True
    """Whether `convert` sees one record at a time."""
    uses_random: ClassVar[bool] = False
    """Whether `convert_all` draws from the random generator that all data sets of a build share."""
    stems: ClassVar[tuple[str, ...]] = ()
    """Stems of the train files in reading order. Empty: the files called `train`, or all files if none is."""
    val_stems: ClassVar[tuple[str, ...]] = ()
    """Stems of the val files of a native split."""
    hub: ClassVar[HubFiles | None] = None
    """Where the files can be downloaded."""
    Options: ClassVar[type[Any]] = NoOptions
    """Dataclass of the source's own options."""

    used_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of a record that `convert` reads. The report lists the others."""

    def __init__(
        self, name: str, options: dict[str, Any], val_split: float = 0.2, consecutive_roles: ConsecutiveRoles = "allow"
    ) -> None:
        self.name = name
        self.val_split = val_split
        self.consecutive_roles = consecutive_roles
        self.unused: set[str] = set()
        """Keys that converted records have and the source does not use."""
        self.irregular: Counter[str] = Counter()
        """Irregularities of converted records that are allowed, with the number of conversations."""
        check_known_options(options, [f.name for f in fields(self.Options)], name)
        self.options: Any = from_mapping(self.Options, options, f"datasets: {name}")

    @property
    def report_name(self) -> str:
        """The name that the original prints, e.g. `InstructionDataset (megacode2)`."""
        return f"{self.class_name} ({self.name})" if self.shows_name else self.class_name

    @property
    def layout(self) -> FileLayout:
        """Which files the source reads."""
        path = getattr(self.options, "input_file_path", None)
        return FileLayout(path, self.stems, self.val_stems, self.split == "native", self.hub)

    def note_fields(self, record: Record) -> None:
        """Note the keys of a record that are not in `used_keys`."""
        self.unused.update(record.keys() - self.used_keys)

    def convert(self, record: Record, file_stem: str) -> Converted:
        """Convert one record. The caller turns any exception in WRONG_FORM into a BadRecord."""
        raise NotImplementedError

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """Convert all records. The order of the results may differ if `independent` is False."""
        for item in records:
            yield item, self.convert_checked(item)

    def convert_checked(self, item: InputRecord) -> Converted:
        """Convert one record. Return a BadRecord if its form or its texts are wrong."""
        try:
            converted = self.convert(item.record, item.file_stem)
        except WRONG_FORM as error:
            return bad_record(item.record, error)
        return (wrong_text(converted) or converted) if isinstance(converted, list) else converted

    def order(self, num_records: int) -> list[int] | None:
        """Return the order of the records before the split. None means the order of the files."""
        return None


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
    """Describe a record for which `convert` raised `error`."""
    reason = f"lacks the key {error}" if isinstance(error, KeyError) else f"has an unexpected form ({error})"
    return BadRecord(reason[:120], f"its keys: {', '.join(map(str, record))}"[:200])
