"""Choose which documents share a row of `seq_length` positions. Each document is in exactly one row.

Packing is best fit, longest first, within windows of an order that is already shuffled. The rows of a window are then
shuffled, so that long documents do not come first. The pretokenizer's reports count rows with the same `best_fit`.

    >>> rows = pack_rows(np.array([3, 5, 2, 4]), capacity=6, window=4, seed=0)
    >>> sorted(sorted(row.tolist()) for row in rows)
    [[0], [1], [2, 3]]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretokenizer.figures.packing import best_fit


def pack_rows(lengths: NDArray[np.integer], capacity: int, window: int, seed: int) -> list[NDArray[np.int64]]:
    """Return rows, each an array of indices into `lengths` [documents], which are numbers of positions.

    The lengths in a row sum to at most `capacity`. The documents are packed in windows of `window` consecutive ones,
    and the rows of each window are shuffled with `seed`. Raises ValueError when a single length exceeds `capacity`.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a document fills {int(lengths.max())} positions, more than the row's {capacity}")
    rng = np.random.RandomState(seed)
    rows: list[NDArray[np.int64]] = []
    for start in range(0, len(lengths), window):
        packed = _pack_window(lengths[start : start + window], capacity)
        rows += [packed[index] + start for index in rng.permutation(len(packed))]
    return rows


def _pack_window(lengths: NDArray[np.integer], capacity: int) -> list[NDArray[np.int64]]:
    """Return the rows of one window, each an array of indices into `lengths` with its longest document first."""
    longest_first = np.argsort(-lengths, kind="stable")
    row_of = np.array(best_fit(lengths[longest_first], capacity), dtype=np.int64)
    by_row = longest_first[np.argsort(row_of, kind="stable")]
    return np.split(by_row, np.cumsum(np.bincount(row_of))[:-1])
