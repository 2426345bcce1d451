"""Draw the loss curves of training runs as loss.png, for a model card (`pip install 'oasst-megatron[plots]'`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LOSS_PLOT = "loss.png"
METRICS = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl in the folder `run` of a training run, or [] when there is no such file."""
    path = run / METRICS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def draw_losses(runs: Sequence[Path], folder: Path) -> bool:
    """Draw the training losses and the evaluations of each run, one panel a run, as `folder`/loss.png.

    `runs` are the folders of training runs. Return True when the file was written. Return False, and write nothing,
    when matplotlib is not installed or no run has losses.
    """
    metrics = {run.name: read_metrics(run) for run in runs}
    metrics = {name: records for name, records in metrics.items() if _points(records)}
    if not metrics or find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(metrics), 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, (name, records) in zip(panels, metrics.items(), strict=True):
        axes.plot(*zip(*_points(records), strict=True), linewidth=1.2, label="training")
        for label, points in _evaluations(records).items():
            axes.plot(*zip(*points, strict=True), "o", markersize=4, label=label)
        axes.set(title=name, xlabel="iteration", ylabel="loss per target token")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(folder / LOSS_PLOT, dpi=120, metadata={"Software": None})
    return True


def _points(records: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Return (iteration, loss) of each iteration with a finite loss."""
    return [(record["iteration"], record["lm_loss"]) for record in records if record.get("lm_loss") is not None]


def _evaluations(records: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points (iteration, loss) of each evaluation set by name, without losses that are not finite.

    The name of a test set ends in ` (test)`.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for kind in ("eval", "test"):
            for name, result in record.get(kind, {}).items():
                if result["loss"] is not None:
                    label = name if kind == "eval" else f"{name} (test)"
                    found.setdefault(label, []).append((record["iteration"], result["loss"]))
    return found
