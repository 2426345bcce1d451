"""Document lengths: histograms, and how well documents pack into rows of a given length. Pure functions of lengths."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BAR = 50
"""Characters of the longest bar."""


def histogram(lengths: NDArray[np.int64]) -> tuple[list[int], list[int]]:
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


def pack(lengths: NDArray[np.int64], row_length: int) -> tuple[int, float]:
    """(rows, filled share) when documents, cut to `row_length`, are packed best fit, longest first.

    >>> pack(np.array([6, 5, 5, 4]), 10)
    (2, 1.0)
    """
    counts = np.bincount(np.minimum(lengths[lengths > 0], row_length), minlength=row_length + 1)
    free = np.zeros(row_length + 1, dtype=np.int64)  # free[r] = rows with room for r more tokens
    rows = 0
    for length in range(row_length, 0, -1):
        left = int(counts[length])
        while left:
            fitting = np.flatnonzero(free[length:])
            if fitting.size:
                room = length + int(fitting[0])
                moved = min(left, int(free[room]))
                free[room] -= moved
                free[room - length] += moved
                left -= moved
            else:
                per_row = row_length // length
                whole, rest = divmod(left, per_row)
                free[row_length - per_row * length] += whole
                if rest:
                    free[row_length - rest * length] += 1
                rows += whole + bool(rest)
                left = 0
    tokens = int((counts * np.arange(row_length + 1)).sum())
    return rows, tokens / (rows * row_length) if rows else 0.0


def plot_histogram(lengths: NDArray[np.int64], path: Path, title: str) -> None:
    """Write a PNG. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bounds, counts = histogram(lengths)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar(range(len(counts)), counts, width=0.95)
    axes.set_xticks([i - 0.5 for i in range(len(bounds))], [f"{bound:,}" for bound in bounds], rotation=45)
    axes.set_xlabel("tokens per document")
    axes.set_ylabel("documents")
    axes.set_title(title)
    figure.savefig(path, dpi=100, metadata={"Software": None})
