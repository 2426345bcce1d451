"""Choose which documents share a row of `seq_length` positions. Each document is in exactly one row.

Packing is best fit, longest first, within windows of an order that is already shuffled. The rows of a window are then
shuffled, so that long documents do not come first.

    >>> rows = pack_rows(np.array([3, 5, 2, 4]), capacity=6, window=4, seed=0)
    >>> sorted(sorted(row.tolist()) for row in rows)
    [[0], [1], [2, 3]]
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray


def pack_rows(lengths: NDArray[np.integer], capacity: int, window: int, seed: int) -> list[NDArray[np.int64]]:
    """Return rows of indices into `lengths` [documents], in positions. The lengths of a row sum to at most `capacity`.

    Raises ValueError when a length exceeds `capacity`.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a document fills {int(lengths.max())} positions, more than the row's {capacity}")
    rng = np.random.RandomState(seed)
    rows: list[NDArray[np.int64]] = []
    for start in range(0, len(lengths), window):
        packed = _best_fit(lengths[start : start + window], capacity)
        for index in rng.permutation(len(packed)):
            rows.append(np.asarray(packed[index], dtype=np.int64) + start)
    return rows


def _best_fit(lengths: NDArray[np.integer], capacity: int) -> list[list[int]]:
    """Pack best fit, longest first. Bit r of `open_space` is set when a row has r positions left, so the tightest fit
    is one bit scan.
    """
    rows: list[list[int]] = []
    rows_with_space: defaultdict[int, list[int]] = defaultdict(list)
    open_space = 0
    sizes = lengths.tolist()
    for index in np.argsort(-lengths, kind="stable").tolist():
        size = sizes[index]
        fits = open_space >> size
        if fits:
            space = size + (fits & -fits).bit_length() - 1
            row = rows_with_space[space].pop()
            if not rows_with_space[space]:
                open_space &= ~(1 << space)
            rows[row].append(index)
        else:
            space, row = capacity, len(rows)
            rows.append([index])
        left = space - size
        if left:
            rows_with_space[left].append(row)
            open_space |= 1 << left
    return rows
