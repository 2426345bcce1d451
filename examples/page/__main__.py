"""One self-contained page about a model: data, training, samples, evaluation, lineage, commands.

    python -m examples.page --runs checkpoints/stage1 checkpoints/stage2 --hf my-model --samples output/samples/*.json

`make page` calls this; `make demo` writes a page at its end.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.page.facts import Facts, Stage, read_stage
from examples.page.render import render
from examples.sampling.report_file import read_report
from megatron_train.checkpoint.folder import TRAIN_CONFIG
from pretokenizer.files.publish import write_text_atomic


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="examples.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="DIR", help="--save folders, in order")
    parser.add_argument("--hf", type=Path, metavar="DIR", help="exported folder")
    parser.add_argument("--samples", type=Path, nargs="*", default=[], metavar="FILE", help="sampling reports")
    parser.add_argument("--evaluation", type=Path, metavar="FILE", help="results of lm-evaluation-harness, as JSON")
    parser.add_argument("--title", help="title of the page [name of the exported folder]")
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    options = parser.parse_args()
    title = options.title or (options.hf or options.runs[-1]).name
    try:
        samples = [read_report(path) for path in options.samples]
        evaluation = read_evaluation(options.evaluation) if options.evaluation else {}
        write_page(options.output, Model(title, options.runs, options.hf, samples, evaluation))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.output}")
    return 0


@dataclass(frozen=True)
class Model:
    """What a page is written from."""

    title: str
    runs: list[Path]
    """--save folders of the training runs, in order."""
    folder: Path | None = None
    """Exported folder."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, dict[str, float]] = field(default_factory=dict)


def write_page(path: Path, model: Model) -> None:
    """Write the page. Raises ValueError for a run without metrics or without a checkpoint."""
    stages = [read_stage(folder) for folder in model.runs]
    facts = Facts(model.title, stages, model.samples, model.evaluation, model.folder, commands(stages, model.folder))
    write_text_atomic(path, render(facts))


def read_evaluation(path: Path) -> dict[str, dict[str, float]]:
    """Return task -> metric -> value of a results file. Raises ValueError for a file of another kind."""
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no results file of lm-evaluation-harness: {error!r}") from None
    return {
        task: {name.split(",")[0]: value for name, value in metrics.items() if isinstance(value, float)}
        for task, metrics in results.items()
    }


def commands(stages: list[Stage], folder: Path | None) -> list[str]:
    """Return the commands from the shards to the exported folder."""
    lines = []
    for stage in stages:
        sizes = (stage.settings.get(f"{kind}_model_parallel_size", 1) for kind in ("tensor", "pipeline"))
        config = stage.folder / stage.checkpoint / TRAIN_CONFIG
        lines.append(f"torchrun --nproc_per_node {math.prod(sizes)} -m megatron_train --config {config}")
    if folder:
        lines.append(f"python -m checkpoint_convert to-hf {stages[-1].folder} {folder}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
