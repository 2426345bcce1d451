"""Plots of a page as SVG text that takes the colour of the page, so that it reads in light and dark mode."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

from examples.page.facts import Shards, Stage

INK = "#010203"
"""Colour that the page replaces by its own text colour."""
LINES = ("#2f7ed8", "#e0793a", "#3aa76d", "#a35bd1")


def figure(width: float = 4.8, height: float = 2.7) -> tuple[Any, Any]:
    """Return an empty matplotlib figure and its axes in the style of the page. Sizes are in inches."""
    import matplotlib

    matplotlib.use("Agg")
    style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    matplotlib.rcParams.update({**style, "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"})
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return drawn, axes


def svg(drawn: Any, name: str) -> str:
    """Return a matplotlib figure as the text of an SVG element. The same figure gives the same text.

    `name` prefixes the ids in the element, so that several plots on one page do not clash.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(drawn)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(' id="', f' id="{name}-')
    return text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'xlink:href="#{name}-')


def curve(stage: Stage, key: str, label: str, log: bool = False) -> str:
    """Return the plot of a metric over the iterations of a stage as SVG, with a dashed line at each resumption.

    `key` is the metric's name in metrics.jsonl, `label` the text of the axis, and `log` asks for a logarithmic axis.
    The plot of lm_loss also has the evaluations as points.
    """
    drawn, axes = figure()
    iterations = [record["iteration"] for record in stage.iterations if record.get(key) is not None]
    axes.plot(iterations, stage.series(key), color=LINES[0], linewidth=1.2, label="training")
    if key == "lm_loss":
        names = dict.fromkeys(row.name for row in stage.evaluations if row.loss is not None)
        for number, name in enumerate(names):
            points = [
                (row.iteration, row.loss) for row in stage.evaluations if row.name == name and row.loss is not None
            ]
            axes.plot(*zip(*points, strict=True), "o", color=LINES[(number + 1) % len(LINES)], label=name)
        axes.legend(frameon=False)
    for iteration in stage.resumptions:
        axes.axvline(iteration + 0.5, color=INK, linewidth=0.8, linestyle="--", alpha=0.6)
    if log:
        axes.set_yscale("log")
    axes.set(xlabel="iteration", ylabel=label)
    return svg(drawn, f"{stage.name}-{key}")


def lengths(shards: Shards, name: str) -> str:
    """Return a bar chart as SVG: the number of documents of the train split in each bin of length in tokens.

    `name` makes the ids in the SVG unique.
    """
    drawn, axes = figure()
    labels = [f"{low:,}-{high - 1:,}" for low, high in bins(shards.bounds)]
    axes.bar(range(len(shards.counts)), shards.counts, color=LINES[0])
    axes.set_xticks(range(len(shards.counts)), labels, rotation=30, ha="right")
    axes.set(xlabel="tokens", ylabel="documents")
    return svg(drawn, f"{name}-lengths")


def bins(bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Return (lower bound, upper bound) of each bin between neighbouring `bounds`."""
    return list(itertools.pairwise(bounds))
