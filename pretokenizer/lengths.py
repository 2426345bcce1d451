"""Document lengths: histograms, and how well documents pack into rows of a given length. Pure functions of lengths."""

from bisect import bisect_left, insort
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BAR = 50
"""Characters of the longest bar."""


def histogram(lengths: NDArray[np.integer[Any]]) -> tuple[list[int], list[int]]:
    """(bounds, counts): counts[i] lengths from bounds[i] up to, not with, bounds[i + 1]. Bounds grow by powers of two.

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
    """A bar a line; empty ranges at both ends are left out."""
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
    """(rows, filled share) when documents, cut to `row_length`, are packed best fit, longest first.

    >>> pack(np.array([6, 5, 5, 4]), 10)
    (2, 1.0)
    """
    counts = np.bincount(np.minimum(lengths[lengths > 0], row_length), minlength=row_length + 1)
    free: dict[int, int] = {}  # room left -> rows with so much
    rooms: list[int] = []  # its keys, sorted
    rows = 0

    def add(room: int, count: int) -> None:
        if room not in free:
            insort(rooms, room)
        free[room] = free.get(room, 0) + count

    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            position = bisect_left(rooms, length)
            if position == len(rooms):
                per_row = row_length // length
                whole, rest = divmod(left, per_row)
                for count, filled in ((whole, per_row * length), (min(rest, 1), rest * length)):
                    rows += count
                    if count:
                        add(row_length - filled, count)
                break
            room = rooms[position]
            moved = min(left, free[room])
            left -= moved
            free[room] -= moved
            if not free[room]:
                del free[room], rooms[position]
            add(room - length, moved)
    tokens = int((counts * np.arange(row_length + 1)).sum())
    return rows, tokens / (rows * row_length) if rows else 0.0


def plot_histograms(lengths_by_split: dict[str, NDArray[np.integer[Any]]], path: Path) -> None:
    """Write a PNG with a panel a split. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3 * len(lengths_by_split)))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.93, bottom=0.1, hspace=0.5)
    panels = figure.subplots(len(lengths_by_split), squeeze=False)[:, 0]
    for panel, (split, lengths) in zip(panels, lengths_by_split.items()):
        bounds, counts = histogram(lengths)
        panel.bar(range(len(counts)), counts, width=0.95)
        panel.set_xticks([i - 0.5 for i in range(len(bounds))], [f"{bound:,}" for bound in bounds])
        panel.set_xlabel("tokens per document")
        panel.set_ylabel("documents")
        panel.set_title(split)
    figure.savefig(path, dpi=100, metadata={"Software": None})
