"""All documents of one data set, joined from its parts. Columns are in memory; tokens stay on disk."""

import mmap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import ranges
from pretokenizer.tasks.part_files import Part, PartHeader, read_part
from pretokenizer.tasks.plan import Plan


class PartTokens:
    """The tokens or texts of one part file, as a memory map."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map or b"", dtype=np.uint8)

    def give_back(self) -> None:
        """Release the memory of the pages read so far. The kernel reads a page again when it is needed."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class PartFiles(NamedTuple):
    """The path (without suffix) of a part that holds documents of a table, and the number of these documents."""

    stem: Path
    num_documents: int


@dataclass(frozen=True)
class DocumentTable:
    """The N documents of one data set's train files, or of its val files, in record order.

    Most fields are columns (arrays). The documents have T turns in total and come from U units. A unit is a record that
    is neither bad nor dropped; it gives any number of documents. The columns have narrow element types, to save memory:
    there may be tens of millions of documents.
    """

    parts: Sequence[PartFiles]
    num_records: int
    """Number of records in the files, including dropped and bad records."""
    unit_records: NDArray[np.int64]
    """(U,) index of each unit's record in the data set."""
    unit_files: NDArray[np.int32]
    """(U,) index of each unit's file in the data set."""
    unit_rows: NDArray[np.int64]
    """(U,) index of each unit's record in its file."""
    unit_documents: NDArray[np.int32]
    """(U,) number of documents that each unit gives."""
    sizes: NDArray[np.int32]
    """(N,) number of tokens of each document."""
    turns: NDArray[np.int32]
    """(N,) number of turns of each document."""
    keys: NDArray[np.uint64]
    """(N,) CRC-32 and number of each document's tokens, in one integer. Equal documents have equal keys."""
    controls: NDArray[np.int32]
    """(N,) number of control tokens, such as <|im_end|>, that each document's messages spell in their text."""
    straddling: NDArray[np.int32]
    """(N,) number of tokens in each document that get no loss although some of their characters have loss."""
    langs: NDArray[np.uint16]
    """(N,) index of each document's language in lang_names."""
    lang_names: list[str]
    contaminated: NDArray[np.bool_]
    """(N,) whether each document contains a test question."""
    text_bytes: NDArray[np.int32]
    """(N,) size of each document's JSON line in bytes; the column is empty when texts are not written."""
    turn_sizes: NDArray[np.int32]
    """(T,) number of tokens of each turn."""
    turn_roles: NDArray[np.uint8]
    """(T,) role id of each turn."""
    dropped: Counter[str]
    """Number of records that are sound but give no sample, by reason."""
    headers: list[PartHeader]

    @cached_property
    def turn_starts(self) -> NDArray[np.int64]:
        """(N,) index of the first turn of each document."""
        return np.cumsum(self.turns, dtype=np.int64) - self.turns

    @cached_property
    def unit_ends(self) -> NDArray[np.int64]:
        """(U,) index of the document after the last one of each unit."""
        return np.cumsum(self.unit_documents, dtype=np.int64)

    def origins_of(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n, 2): for each document, the index of its file in the data set and of its record in the file."""
        units = np.searchsorted(self.unit_ends, documents, side="right")
        return np.column_stack([self.unit_files[units].astype(np.int64), self.unit_rows[units]])

    @cached_property
    def assistant_tokens(self) -> NDArray[np.int64]:
        """(N,) number of tokens in each document's assistant turns, template tokens included."""
        return self.role_tokens(Role.ASSISTANT)

    def role_tokens(self, role: Role) -> NDArray[np.int64]:
        """Return (N,): the number of tokens in each document's turns of a role, template tokens included."""
        if not self.turns.size:
            return np.empty(0, dtype=np.int64)
        of_role = self.turn_sizes * (self.turn_roles == role)
        return np.add.reduceat(of_role, self.turn_starts, dtype=np.int64)  # every document has a turn

    @cached_property
    def part_of(self) -> NDArray[np.int32]:
        """(N,) index of the part that holds each document."""
        numbers = np.arange(len(self.parts), dtype=np.int32)
        return np.repeat(numbers, [part.num_documents for part in self.parts])

    @cached_property
    def token_starts(self) -> NDArray[np.int64]:
        """(N,) index of each document's first token among the tokens of its part."""
        return _starts_within(self.part_of, self.sizes)

    @cached_property
    def text_starts(self) -> NDArray[np.int64]:
        """(N,) byte offset of each document's JSON line in the texts of its part."""
        return _starts_within(self.part_of, self.text_bytes)

    def documents_of_units(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of all documents that the given units (indices) give, in the order of the units."""
        counts = self.unit_documents[units]
        return ranges(self.unit_ends[units] - counts, counts)


Tables = list[tuple[DocumentTable, DocumentTable | None]]
"""For each data set, the table of its train files and that of its validation files, or None if it has none."""


def part_headers(tables: Tables) -> list[list[PartHeader]]:
    """Return, for each data set, the headers of all its part files, those of train files first."""
    return [[header for table in pair if table for header in table.headers] for pair in tables]


def read_tables(plan: Plan, folders: Sequence[Path], itemsize: int) -> Tables:
    """Read the part files of a build and return the tables of each data set.

    A part is in one of `folders`, and its tokens take `itemsize` bytes each. Raises PartError for a part that is
    missing or damaged.
    """
    by_dataset: dict[tuple[int, bool], list[tuple[Part, tuple[int, bool]]]] = {}
    for task in plan.tasks:
        for number, piece in enumerate(task.pieces):
            stem = next((s for s in (task.stem(f, number) for f in folders) if s.with_suffix(".json").is_file()), None)
            part = read_part(stem or task.stem(folders[0], number), itemsize)
            first_file, span = piece.files[0]
            by_dataset.setdefault((piece.dataset, piece.is_val), []).append((part, (first_file, span.end >= 0)))
    return [
        (_join(by_dataset[number, False]), _join(by_dataset[number, True]) if (number, True) in by_dataset else None)
        for number in range(len(plan.datasets))
    ]


def _join(parts: list[tuple[Part, tuple[int, bool]]]) -> DocumentTable:
    """Return the table of the documents in `parts`, whose columns are removed to free their memory.

    Each part comes with (index of its first file in the data set, whether the part is a span of that file).
    """
    known = {name for part, _ in parts for name in part.header.langs} - {"unknown"}
    lang_names = ["unknown", *sorted(known)[: np.iinfo(np.uint16).max]]
    lang_ids = {name: i for i, name in enumerate(lang_names)}
    langs = [
        np.array([lang_ids.get(name, 0) for name in part.header.langs], np.uint16)[part.columns.pop("document_langs")]
        for part, _ in parts
    ]
    records, rows, base = [], [], 0
    rows_before: Counter[int] = Counter()
    for part, (first_file, is_span) in parts:
        own_rows = part.columns.pop("unit_rows")
        # A span counts its rows from its own start, not from that of its file.
        rows.append(own_rows + rows_before[first_file] if is_span else own_rows)
        rows_before[first_file] += part.header.num_records if is_span else 0
        records.append(own_rows + base)
        base += part.header.num_records
    files = [PartFiles(part.stem, part.columns["document_sizes"].size) for part, _ in parts]

    def column(name: str) -> NDArray[Any]:
        """Return one column of all parts, joined. The parts lose the column, to free its memory."""
        return np.concatenate([part.columns.pop(name) for part, _ in parts])

    return DocumentTable(
        parts=files,
        num_records=base,
        unit_records=np.concatenate(records),
        unit_files=column("unit_files"),
        unit_rows=np.concatenate(rows),
        unit_documents=column("unit_documents"),
        sizes=column("document_sizes"),
        turns=column("document_turns"),
        keys=column("document_keys"),
        controls=column("document_controls"),
        straddling=column("document_straddling"),
        langs=np.concatenate(langs),
        lang_names=lang_names,
        contaminated=column("document_contaminated"),
        text_bytes=column("text_bytes"),
        turn_sizes=column("turn_sizes"),
        turn_roles=column("turn_roles"),
        dropped=sum((part.header.dropped for part, _ in parts), Counter[str]()),
        headers=[part.header for part, _ in parts],
    )


def _starts_within(groups: NDArray[np.int32], sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return (N,): for each element, the sum of the `sizes` of the elements before it in the same group.

    `groups` (N,) holds the group of each element, in ascending order.
    """
    starts = np.cumsum(sizes, dtype=np.int64) - sizes
    if not starts.size:
        return starts
    starts -= starts[np.searchsorted(groups, groups)]
    return starts
