"""Document lengths: histograms, and how well documents pack into rows of a given length. Pure functions of lengths."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BAR = 50
"""Characters of the longest bar."""
SEQ_LENGTHS = (512, 1024, 2048, 4096, 8192)
PACKED_LENGTHS = (2048, 4096, 8192)
GLOBAL_BATCHES = (16, 64, 128, 256)


@dataclass(frozen=True)
class SeqLength:
    """What one `seq_length` costs, and how well documents pack into rows of it."""

    seq_length: int
    documents_cut: int
    tokens_lost: int
    packed_rows: int | None
    """None where packing was not tried."""
    packed_share: float | None
    """Filled share of the packed rows."""


@dataclass(frozen=True)
class LengthReport:
    """Lengths of a split's documents: histogram, what a `seq_length` costs, epochs in iterations."""

    bounds: list[int]
    counts: list[int]
    """counts[i] documents have bounds[i] up to, not with, bounds[i + 1] tokens."""
    seq_lengths: list[SeqLength]
    iterations_per_epoch: dict[int, dict[str, float]]
    """Global batch size -> `documents` or `packed_N` -> iterations."""


def length_report(lengths: NDArray[np.integer[Any]]) -> LengthReport:
    """All figures of a split; empty when it has no document."""
    if not lengths.size:
        return LengthReport([], [], [], {})
    rows = []
    for seq_length in SEQ_LENGTHS:
        over = lengths[lengths > seq_length]
        packed = pack(lengths, seq_length) if seq_length in PACKED_LENGTHS else (None, None)
        rows.append(SeqLength(seq_length, over.size, int((over - seq_length).sum()), *packed))
    samples = {"documents": lengths.size} | {f"packed_{r.seq_length}": r.packed_rows for r in rows if r.packed_rows}
    epochs = {batch: {name: count / batch for name, count in samples.items()} for batch in GLOBAL_BATCHES}
    return LengthReport(*histogram(lengths), rows, epochs)


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
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            position = bisect_left(rooms, length)
            if position == len(rooms):  # new rows, each as full as documents of this length make it
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


def plot_histograms(lengths_by_split: dict[str, NDArray[np.integer[Any]]], path: Path) -> None:
    """Write a PNG with a panel a split. Needs Pillow, which comes with matplotlib."""
    from PIL import Image, ImageDraw, ImageFont

    width, height, left, right, top, bottom = 720, 260, 80, 20, 34, 44
    image = Image.new("RGB", (width, height * len(lengths_by_split)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for number, (split, lengths) in enumerate(lengths_by_split.items()):
        bounds, counts = histogram(lengths)
        floor, tallest = height * (number + 1) - bottom, max(*counts, 1)
        step = (width - left - right) / len(counts)
        draw.text((left, floor - height + bottom + 10), f"{split}: documents by number of tokens", "black", font)
        for i, count in enumerate(counts):
            bar = (height - top - bottom) * count / tallest
            x = left + i * step
            draw.rectangle((x + 1, floor - bar, x + step - 1, floor), fill="steelblue" if count else "white")
            draw.text((x, floor + 6), f"{bounds[i]:,}", "black", font, anchor="mt")
            draw.text((x + step / 2, floor - bar - 3), f"{count:,}" if count else "", "dimgray", font, anchor="mb")
        draw.text((left + len(counts) * step, floor + 6), f"{bounds[-1]:,}", "black", font, anchor="mt")
        draw.line((left, floor, width - right, floor), fill="black")
    image.save(path)
