"""The plot of document lengths (`pip install 'oasst-megatron[plots]'`)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.reports.lengths import histogram

PLOT_NAME = "lengths.png"
_COLOURS = {"train": "#4878a8", "val": "#c8863c"}


def has_plots() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot_lengths(lengths_by_split: dict[str, NDArray[np.integer[Any]]], path: Path) -> None:
    """Draw a histogram of tokens per document for each split, on a logarithmic axis, into a PNG or SVG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(lengths_by_split)
    figure = Figure(figsize=(8, 2.9 * count), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    for axes, (split, lengths) in zip(panels, lengths_by_split.items(), strict=True):
        _draw_histogram(axes, lengths, _COLOURS[split])
        axes.set_title(f"{split}: {lengths.size:,} document{'s' * (lengths.size != 1)}", fontsize=10, loc="left")
    panels[-1].set_xlabel("tokens per document", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})


def _draw_histogram(axes: Any, lengths: NDArray[np.integer[Any]], colour: str) -> None:
    bounds, counts = histogram(lengths)
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 1)
    edges = np.maximum(np.array(bounds[first : last + 1], dtype=float), bounds[1] / 2)  # a log axis has no 0
    axes.set_xscale("log", base=2)
    axes.bar(edges[:-1], counts[first:last], np.diff(edges), align="edge", color=colour, edgecolor="white")
    for left, right, number in zip(edges[:-1], edges[1:], counts[first:last], strict=True):
        axes.annotate(
            f"{number:,}" if number else "",
            (np.sqrt(left * right), number),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xticks(edges, [f"{bound:,}" for bound in bounds[first : last + 1]], fontsize=8)
    axes.minorticks_off()
    axes.set_yticks([])
    axes.margins(x=0.01, y=0.15)
    axes.set_ylabel("documents", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
