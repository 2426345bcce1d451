"""Read tokens, roles and texts of documents from the part files, in any order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pretokenizer.encode.batch import ranges
from pretokenizer.selection.document_table import DocumentTable, PartTokens

GIVE_BACK_BYTES = 128 << 20
"""The memory of all mapped files is released each time this many bytes have been read, to bound memory use."""
FAULT_BYTES = 64 << 10
"""Minimum number of bytes to count for one read: the kernel maps a window of this size even for a short document."""

BATCH_TOKENS = 1 << 19
"""Approximate number of tokens in one batch of documents."""


class TokenStore:
    """Reads tokens, roles and texts of documents. It maps each part file into memory once."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._open: dict[Path, PartTokens] = {}
        self._read = 0
        self._mapped = 0

    def gather(self, table: DocumentTable, documents: NDArray[np.int64]) -> NDArray[Any]:
        """Return the token ids of the given documents of `table`, joined in their order into one array."""
        return self._gather(table, documents, table.token_starts, table.sizes, ".tokens", self.dtype)

    def gather_texts(self, table: DocumentTable, documents: NDArray[np.int64]) -> bytes:
        """Return the JSON lines with the texts of the given documents of `table`, joined in their order."""
        return self._gather(
            table, documents, table.text_starts, table.text_bytes, ".texts", np.dtype(np.uint8)
        ).tobytes()

    def gather_roles(self, table: DocumentTable, documents: NDArray[np.int64], dtype: DTypeLike) -> NDArray[Any]:
        """Return the role id of every token of the given documents of `table`, joined in their order into one array."""
        turns = ranges(table.turn_starts[documents], table.turns[documents])
        return np.repeat(table.turn_roles[turns].astype(dtype), table.turn_sizes[turns])

    def _gather(
        self,
        table: DocumentTable,
        documents: NDArray[np.int64],
        starts: NDArray[np.int64],
        sizes: NDArray[np.int32],
        suffix: str,
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        """Return the elements of the given documents, joined, from the part files with the given suffix.

        `starts` and `sizes` locate every document of the table in the file of its part, counted in elements of `dtype`.
        """
        if not documents.size:
            return np.empty(0, dtype=dtype)
        # Consecutive documents of one part are copied as one run.
        parts = table.part_of[documents]
        breaks = np.flatnonzero((np.diff(documents) != 1) | (np.diff(parts) != 0)) + 1
        firsts, lasts = np.append(0, breaks), np.append(breaks, documents.size) - 1
        run_starts = (starts[documents[firsts]] * dtype.itemsize).tolist()
        run_ends = ((starts[documents[lasts]] + sizes[documents[lasts]]) * dtype.itemsize).tolist()
        files = {part: self._file(table.parts[part].stem.with_suffix(suffix)) for part in np.unique(parts).tolist()}
        flats = {part: file.bytes for part, file in files.items()}
        joined = np.concatenate([flats[p][s:e] for p, s, e in zip(parts[firsts].tolist(), run_starts, run_ends)])
        self._read += max(joined.size, firsts.size * FAULT_BYTES)
        if min(self._read, self._mapped) > GIVE_BACK_BYTES:
            for file in self._open.values():
                file.give_back()
            self._read = 0
        return joined.view(dtype)

    def _file(self, path: Path) -> PartTokens:
        if path not in self._open:
            self._open[path] = PartTokens(path)
            self._mapped += self._open[path].bytes.size
        return self._open[path]


def batches(documents: NDArray[np.int64], sizes: NDArray[np.int32]) -> Iterator[NDArray[np.int64]]:
    """Yield `documents` in batches of about BATCH_TOKENS tokens.

    `sizes` holds the number of tokens of every document of the table that `documents` indexes.
    """
    if documents.size:
        batch_of = np.cumsum(sizes[documents], dtype=np.int64) // BATCH_TOKENS
        yield from np.split(documents, np.flatnonzero(np.diff(batch_of)) + 1)
