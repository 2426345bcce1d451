"""Best-fit packing: which documents share a row. (SHARED)

Each document goes into the fullest row that has enough space for it, the longest document first. The reports count the
rows, and the trainer fills them, so both see the same packing.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def best_fit(lengths: NDArray[np.integer[Any]], capacity: int) -> list[int]:
    """Return the row number of each document. Rows are numbered from 0, in the order in which they are opened.

    `lengths` [documents] are in positions, sorted with the longest first. None is above `capacity`, the positions of a
    row. If several rows have the same space left, the one that received a document last is used.

    >>> best_fit(np.array([6, 5, 5, 4]), 10)
    [0, 1, 1, 0]
    """
    placed: list[int] = []
    open_rows: dict[int, list[int]] = {}  # positions left -> the rows with exactly that space
    spaces: list[int] = []  # the keys of open_rows, sorted
    num_rows = 0
    for length, left in _runs(lengths):  # documents of one length fill a row before the next row is touched
        while left:
            at = bisect_left(spaces, length or 1)
            is_new = at == len(spaces)
            space = capacity if is_new else spaces[at]
            per_row = space // length if length else left
            wanted = -(-left // per_row)
            if is_new:
                rows = list(range(num_rows, num_rows + wanted))
                num_rows += wanted
            else:
                stack = open_rows[space]
                rows = stack[: -wanted - 1 : -1]
                del stack[-wanted:]
                if not stack:
                    del open_rows[space], spaces[at]
            number = min(left, len(rows) * per_row)
            left -= number
            placed += rows if per_row == 1 else [row for row in rows for _ in range(per_row)][:number]
            missing = len(rows) * per_row - number  # only the last row can lack documents
            if missing:
                _open(rows[-1:], space - (per_row - missing) * length, open_rows, spaces)
                del rows[-1]
            if rows and space != per_row * length:
                _open(rows, space - per_row * length, open_rows, spaces)
    return placed


def _runs(lengths: NDArray[np.integer[Any]]) -> Iterator[tuple[int, int]]:
    """Return (length, number of documents) for each run of equal lengths."""
    starts = np.flatnonzero(np.diff(lengths, prepend=-1))
    return zip(lengths[starts].tolist(), np.diff(starts, append=len(lengths)).tolist())


def _open(rows: list[int], space: int, open_rows: dict[int, list[int]], spaces: list[int]) -> None:
    """Add `rows`, with `space` positions left, to the rows that can receive documents."""
    if space in open_rows:
        open_rows[space] += rows
    else:
        open_rows[space] = rows
        insort(spaces, space)
