"""Compute figures from the lengths of documents: histograms, and how well documents fit and pack into training rows."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BAR = 50
"""Length of the longest bar of a text histogram, in characters."""
SEQ_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Values of `seq_length` for which the reports show figures, in tokens."""
GLOBAL_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Global batch sizes for which the reports show the iterations of an epoch, in samples."""


@dataclass(frozen=True)
class SeqLength:
    """Numbers of documents and tokens that one `seq_length` cuts, and how full packed rows of that length are."""

    seq_length: int
    documents_cut: int
    tokens_lost: int
    packed_rows: int
    packed_share: float
    """Share of the token positions in packed rows that documents fill. The rest is padding."""


@dataclass(frozen=True)
class LengthReport:
    """Figures about the lengths of a split's documents: a histogram, effects of each `seq_length`, and iterations."""

    bounds: list[int]
    counts: list[int]
    """counts[i] documents have at least bounds[i] and fewer than bounds[i + 1] tokens."""
    seq_lengths: list[SeqLength]
    iterations_per_epoch: dict[int, dict[str, float]]
    """Global batch size -> `documents` (one in each row) or `packed_N` (rows of N tokens) -> iterations in an epoch."""


def length_report(lengths: NDArray[np.integer[Any]]) -> LengthReport:
    """Return the length figures of a split. `lengths` has the number of tokens of each document.

    All figures are empty for a split without documents.
    """
    if not lengths.size:
        return LengthReport([], [], [], {})
    rows = []
    for seq_length in SEQ_LENGTHS:
        over = lengths[lengths > seq_length]
        rows.append(SeqLength(seq_length, over.size, int((over - seq_length).sum()), *pack(lengths, seq_length)))
    samples = {"documents": lengths.size} | {f"packed_{row.seq_length}": row.packed_rows for row in rows}
    epochs = {batch: {name: count / batch for name, count in samples.items()} for batch in GLOBAL_BATCHES}
    return LengthReport(*histogram(lengths), rows, epochs)


def histogram(lengths: NDArray[np.integer[Any]]) -> tuple[list[int], list[int]]:
    """Return (bounds, counts): counts[i] lengths are in bounds[i] <= length < bounds[i + 1]. Bounds double from 16.

    >>> histogram(np.array([3, 5, 40]))
    ([0, 16, 32, 64], [2, 0, 1])
    """
    top = int(lengths.max()) if lengths.size else 0
    bounds = [0, 16]
    while bounds[-1] <= top:
        bounds.append(bounds[-1] * 2)
    counts, _ = np.histogram(lengths, bins=np.array(bounds))
    return bounds, counts.tolist()


def text_histogram(bounds: list[int], counts: list[int]) -> list[str]:
    """Return a histogram as text, one line with a bar for each range. Empty ranges at both ends are left out."""
    filled = [i for i, count in enumerate(counts) if count]
    if not filled:
        return []
    largest = max(counts)
    lines = []
    for i in range(filled[0], filled[-1] + 1):
        bar = "#" * max(1 if counts[i] else 0, round(BAR * counts[i] / largest))
        lines.append(f"{bounds[i]:>7,} - {bounds[i + 1] - 1:>7,} | {bar} {counts[i]:,}")
    return lines


def pack(lengths: NDArray[np.integer[Any]], row_length: int) -> tuple[int, float]:
    """Pack documents into rows of `row_length` tokens.

    Return (number of rows, share of their positions that is filled). Longer documents are cut. The longest documents
    are packed first, each into the fullest row with enough room.

    >>> pack(np.array([6, 5, 5, 4]), 10)
    (2, 1.0)
    """
    counts = np.bincount(np.minimum(lengths[lengths > 0], row_length), minlength=row_length + 1)
    free: dict[int, int] = {}  # space left -> number of rows with that much space
    rooms: list[int] = []  # the keys of `free`, sorted
    rows = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            position = bisect_left(rooms, length)
            if position == len(rooms):  # new rows, each filled with documents of this length
                per_row = row_length // length
                new = max(left // per_row, 1)
                room, count = row_length - min(left, per_row) * length, new
                rows += new
                left -= new * min(left, per_row)
            else:
                room = rooms[position]
                count = free[room]
                if count <= left:
                    del free[room], rooms[position]
                else:
                    free[room], count = count - left, left
                left -= count
                room -= length
            if room in free:
                free[room] += count
            elif room:
                free[room] = count
                insort(rooms, room)
    tokens = int((counts * np.arange(row_length + 1)).sum())
    return rows, tokens / (rows * row_length) if rows else 0.0
