"""Compute figures from the lengths of documents: histograms, and how well documents fit and pack into training rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.figures.packing import best_fit

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
    """Number of documents with more than `seq_length` tokens."""
    tokens_lost: int
    """Number of tokens beyond the first `seq_length` tokens of their document."""
    packed_rows: int
    """Number of rows of `seq_length` positions that the cut documents take when they are packed."""
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
    longest_first = np.sort(lengths)[::-1]
    rows = [_fit(longest_first, seq_length) for seq_length in SEQ_LENGTHS]
    samples = {"documents": lengths.size} | {f"packed_{row.seq_length}": row.packed_rows for row in rows}
    epochs = {batch: {name: count / batch for name, count in samples.items()} for batch in GLOBAL_BATCHES}
    return LengthReport(*histogram(lengths), rows, epochs)


def _fit(longest_first: NDArray[np.integer[Any]], seq_length: int) -> SeqLength:
    """Return the figures of documents that are cut to `seq_length` tokens and packed.

    `longest_first` holds the number of tokens of each document, in descending order. A document without tokens takes no
    row.
    """
    over = longest_first[longest_first > seq_length]
    cut = np.minimum(longest_first[longest_first > 0], seq_length)
    rows = max(best_fit(cut, seq_length), default=-1) + 1
    share = int(cut.sum()) / (rows * seq_length) if rows else 0.0
    return SeqLength(seq_length, over.size, int((over - seq_length).sum()), rows, share)


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
