"""What a data source is: which files it reads, and how a record becomes conversations.

Most sources convert each record alone and can be read in pieces by several processes. One that needs the whole data set
at once sets `independent = False` and overrides convert_all; one that draws random numbers sets `uses_random` as well.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pretokenizer.chat.conversation import Conversation
from pretokenizer.config.settings import check_known_options
from pretokenizer.config.yaml_config import from_mapping
from pretokenizer.records.json_text import Record


class BadRecord(NamedTuple):
    """A record that is wrong: it is counted and named in the report, and stops the build with --strict."""

    reason: str
    """One of few, for counting."""
    found: str = ""
    """What this record has instead, for the message."""


Converted = list[Conversation] | str | BadRecord
"""Conversations of a record; or, as a string, why the record does not count (it is dropped before the split); or what
is wrong with it.
"""
WRONG_FORM = (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError)
"""What a record of another form than the expected one raises in `convert`."""


@dataclass(frozen=True)
class NoOptions:
    """A source without options of its own."""


class HubFiles(NamedTuple):
    """Where a data set's files are on the Hugging Face hub."""

    repo_id: str
    revision: str
    """A commit or, where none was at hand, a branch: `revision:` of the entry pins it."""
    patterns: tuple[str, ...]
    """Glob patterns of the files to fetch."""


class InputRecord(NamedTuple):
    """A record and where it stands."""

    file_index: int
    """Into the files of the data set."""
    row: int
    """From 0 in the file."""
    file_stem: str
    """File name without suffixes: train, test, en ..."""
    record: Record


class Source:
    """Base of all sources. The class variables say how the original treats the data set."""

    class_name: ClassVar[str]
    """Name in the statistics report."""
    shows_name: ClassVar[bool] = False
    """Whether the report shows the data set's name in brackets."""
    split: ClassVar[Literal["sklearn", "torch", "native"]] = "sklearn"
    """How val is drawn; native: it has a file of its own."""
    independent: ClassVar[bool] = True
    uses_random: ClassVar[bool] = False
    stems: ClassVar[tuple[str, ...]] = ()
    """File stems in reading order; empty = the `train` files when there are any, else all."""
    val_stems: ClassVar[tuple[str, ...]] = ()
    """Stems of the native val files."""
    hub: ClassVar[HubFiles | None] = None
    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, name: str, options: dict[str, Any], val_split: float = 0.2) -> None:
        self.name = name
        self.val_split = val_split
        check_known_options(options, [f.name for f in fields(self.Options)], name)
        self.options: Any = from_mapping(self.Options, options, f"datasets: {name}")

    @property
    def report_name(self) -> str:
        """As the original prints it, e.g. `InstructionDataset (megacode2)`."""
        return f"{self.class_name} ({self.name})" if self.shows_name else self.class_name

    @property
    def input_file_path(self) -> str | None:
        """A file named in the options, instead of the data set's folder."""
        return getattr(self.options, "input_file_path", None)

    def convert(self, record: Record, file_stem: str) -> Converted:
        """One record. Whatever it raises of WRONG_FORM becomes a BadRecord."""
        raise NotImplementedError

    def convert_all(
        self, records: Iterable[InputRecord], rng: random.Random
    ) -> Iterator[tuple[InputRecord, Converted]]:
        """All records in order; a record may come out at another place or not at all when `independent` is False."""
        for item in records:
            yield item, self.convert_checked(item)

    def convert_checked(self, item: InputRecord) -> Converted:
        """`convert`, with a BadRecord for a record of the wrong form or with wrong texts."""
        try:
            converted = self.convert(item.record, item.file_stem)
        except WRONG_FORM as error:
            return bad_record(item.record, error)
        return (wrong_text(converted) or converted) if isinstance(converted, list) else converted

    def order(self, num_records: int) -> list[int] | None:
        """The order in which records are visited before the split; None = as they stand."""
        return None


def wrong_text(conversations: Iterable[Conversation]) -> BadRecord | None:
    """What is wrong with the messages of a record, if anything: no text, or half of a surrogate pair."""
    for conversation in conversations:
        for role, text in conversation.messages:
            if not isinstance(text, str):
                return BadRecord("a message is no text", f"the {role.template_name} message is {type(text).__name__}")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                return BadRecord("broken Unicode")
    return None


def bad_record(record: Record, error: Exception) -> BadRecord:
    """What is wrong with a record on which `convert` raised `error`."""
    reason = f"lacks the key {error}" if isinstance(error, KeyError) else f"has not the expected form ({error})"
    return BadRecord(reason[:120], f"it has: {', '.join(map(str, record))}"[:200])


def stem_of(path: Path) -> str:
    """`train-00000-of-00002.parquet` -> train; `en.jsonl.gz` -> en."""
    return path.name.split(".")[0].split("-0")[0].lower()
