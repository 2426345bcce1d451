"""Draw the histogram of document lengths (`pip install 'oasst-megatron[plots]'`).

A separate process draws it while the build continues, because importing matplotlib takes 0.6 s of CPU time. That
process runs this file as a program, so the file imports nothing of the project.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PLOT_NAME = "lengths.png"
PLOT_SVG = "lengths.svg"
_COLOURS = {"train": "#4878a8", "val": "#c8863c"}

Histogram = tuple[list[int], list[int]]
"""(bounds, counts): counts[i] documents have bounds[i] <= tokens < bounds[i + 1]."""


def has_plots() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


@contextlib.contextmanager
def drawing(histograms: dict[str, Histogram], folder: Path) -> Iterator[None]:
    """Draw the histogram of each split into `lengths.png` and `lengths.svg` in `folder`, while the `with` block runs.

    Without matplotlib, or without a document in any split, no file is written. Raises OSError when drawing fails.
    """
    if not has_plots() or not any(counts for _, counts in histograms.values()):
        yield
        return
    command = [sys.executable, "-P", __file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stderr is not None
        json.dump(histograms, process.stdin)
        process.stdin.close()
        yield
        problem = process.stderr.read().strip()
        if process.wait():
            raise OSError(f"{folder / PLOT_NAME}: cannot be drawn: {problem}")


def draw(histograms: dict[str, Histogram], folder: Path) -> None:
    """Draw the histogram of each split, on a logarithmic axis, into `lengths.png` and `lengths.svg` in `folder`."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(histograms)
    figure = Figure(figsize=(8, 2.9 * count), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    for axes, (split, (bounds, counts)) in zip(panels, histograms.items(), strict=True):
        _draw_panel(axes, bounds, counts, _COLOURS[split])
        number = sum(counts)
        axes.set_title(f"{split}: {number:,} document{'s' * (number != 1)}", fontsize=10, loc="left")
    panels[-1].set_xlabel("tokens per document", fontsize=9)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lengths"}):  # the same bytes every time
        figure.savefig(folder / PLOT_NAME, dpi=110, metadata={"Software": None})
        figure.savefig(folder / PLOT_SVG, metadata={"Date": None})


def _draw_panel(axes: Any, bounds: list[int], counts: list[int], colour: str) -> None:
    filled = [i for i, number in enumerate(counts) if number]
    shown = slice(filled[0], filled[-1] + 1) if filled else slice(0, 0)
    labels, heights = bounds[shown.start : shown.stop + 1], counts[shown]
    edges = [max(bound, 8) for bound in labels]  # a logarithmic axis has no 0
    axes.set_xscale("log", base=2)
    for left, right, number in zip(edges, edges[1:], heights, strict=False):
        axes.bar(left, number, right - left, align="edge", color=colour, edgecolor="white")
        middle = (left * right) ** 0.5
        text = f"{number:,}" if number else ""
        axes.annotate(text, (middle, number), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(edges, [f"{bound:,}" for bound in labels], fontsize=8)
    axes.minorticks_off()
    axes.set_yticks([])
    axes.margins(x=0.01, y=0.15)
    axes.set_ylabel("documents", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)


if __name__ == "__main__":
    try:
        draw(json.load(sys.stdin), Path(sys.argv[1]))
    except OSError as error:
        sys.exit(str(error))
