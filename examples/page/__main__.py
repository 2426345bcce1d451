"""One self-contained page about a model: data, training, samples, evaluation, lineage, commands.

    python -m examples.page --runs checkpoints/stage1 checkpoints/stage2 --hf my-model --samples output/samples/*.json

With --hf the page is also HF_DIR/report.html, and the model card links to it. `make page` calls this; `make demo` and
`make report` write a page too.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from checkpoint_convert.verify.receipt import renew_sums
from examples.evaluation.results import EVALUATION, Evaluation, read_evaluation
from examples.page.facts import Facts, Stage, read_stage, section_name
from examples.page.render import render
from examples.sampling.report_file import read_report
from megatron_train.checkpoint.folder import TRAIN_CONFIG
from pretokenizer.files.publish import write_text_atomic

PAGE, README = "report.html", "README.md"
LINK = f"[Report]({PAGE}): data, training, samples, evaluation and lineage on one page."


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="examples.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="DIR", help="--save folders, in order")
    parser.add_argument("--hf", type=Path, metavar="DIR", help="exported folder")
    parser.add_argument("--samples", type=Path, nargs="*", default=[], metavar="FILE", help="sampling reports")
    parser.add_argument(
        "--evaluation", type=Path, metavar="FILE", help=f"results of lm-evaluation-harness [{EVALUATION} in --hf]"
    )
    parser.add_argument("--title", help="title of the page [name of the exported folder]")
    parser.add_argument("--output", type=Path, default=Path(PAGE))
    options = parser.parse_args()
    title = options.title or (options.hf or options.runs[-1]).name
    try:
        samples = [read_report(path) for path in options.samples]
        evaluation = read_evaluation(options.evaluation) if options.evaluation else None
        write_page(options.output, Model(title, options.runs, options.hf, samples, evaluation))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.output}")
    return 0


@dataclass(frozen=True)
class Model:
    """The title of a model's page, and the folders and reports from which the page is written."""

    title: str
    runs: list[Path]
    """--save folders of the training runs, in order."""
    folder: Path | None = None
    """Exported Hugging Face folder, or None when the model is not exported."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Sampling reports, of this model or of several."""
    evaluation: Evaluation | None = None
    """Results of lm-eval. None takes those in the exported folder, if it has any."""


def write_page(path: Path, model: Model) -> None:
    """Write the page about a model to `path`.

    If the exported folder has a model card, it gets a copy of the page, and the card a link to the copy. Raises
    ValueError without matplotlib, and for a run without metrics or without a checkpoint.
    """
    if find_spec("matplotlib") is None:
        raise ValueError("report.html needs matplotlib; run: pip install 'oasst-megatron[plots]'")
    stages = [read_stage(folder) for folder in model.runs]
    evaluation = model.evaluation
    if evaluation is None and model.folder and (model.folder / EVALUATION).is_file():
        evaluation = read_evaluation(model.folder / EVALUATION)
    commands = commands_of(stages, model.folder)
    text = render(Facts(model.title, stages, model.samples, evaluation, model.folder, commands))
    write_text_atomic(path, text)
    if model.folder and (model.folder / README).is_file():
        add_to_folder(model.folder, text)


def add_to_folder(folder: Path, page: str) -> None:
    """Write the HTML `page` into an exported folder, link to it in the model card, and update SHA256SUMS."""
    write_text_atomic(folder / PAGE, page)
    card = (folder / README).read_text(encoding="utf-8")
    write_text_atomic(folder / README, with_link(card))
    renew_sums(folder, [PAGE, README])


def with_link(card: str) -> str:
    """Return a model card (Markdown) with a link to the page below its title. A card with the link stays as it is."""
    if LINK in card:
        return card
    before, title, rest = card.partition("\n# ") if not card.startswith("# ") else ("", "# ", card[2:])
    name, _, below = rest.partition("\n")
    return f"{before}{title}{name}\n\n{LINK}\n{below}" if title else f"{LINK}\n\n{card}"


def commands_of(stages: list[Stage], folder: Path | None) -> list[str]:
    """Return the commands that reproduce the model: build its shards, train each stage, export and verify.

    `folder` is the exported folder. Without it, the last two are left out.
    """
    lines = []
    for stage in stages:
        for shards in stage.shards:
            if shards.section:
                lines.append(f"python -m pretokenizer build --configs {section_name(shards)}.yaml")
        config = stage.folder / stage.checkpoint / TRAIN_CONFIG
        lines.append(f"torchrun --nproc_per_node {stage.world_size} -m megatron_train --config {config}")
    if folder:
        lines.append(f"python -m checkpoint_convert to-hf {stages[-1].folder} {folder}")
        lines.append(f"python -m checkpoint_convert verify --receipt {folder}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
