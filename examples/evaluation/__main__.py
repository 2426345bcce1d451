"""Evaluate an exported model with lm-eval, and put the results into the folder and its model card.

    python -m examples.evaluation my-model                                      the leaderboard's six tasks
    python -m examples.evaluation my-model --tasks arc_challenge,my_task.yaml --limit 100

Writes HF_DIR/evaluation.json, and the table and the `model-index` of HF_DIR/README.md. `make evaluate` calls this.
Exit code 0 = done, 1 = the model or the data of a task cannot be read, 2 = wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from checkpoint_convert.verify.receipt import renew_sums
from examples.cards.card import load_card
from examples.evaluation.harness import Options, TaskNameError, evaluate
from examples.evaluation.leaderboard import LEADERBOARD
from examples.evaluation.results import EVALUATION, evaluation_of, table, with_evaluation
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.publish import write_text_atomic

README = "README.md"


def main() -> int:
    options = build_parser().parse_args()
    how = Options(options.limit, options.num_fewshot, options.batch_size, options.plain)
    try:
        name = load_card(options.card).name if options.card else options.folder.resolve().name
        record = evaluate(options.folder, options.tasks, how)
    except (TaskNameError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_results(options.folder, name, record)
    print(table(evaluation_of(record)))
    print(f"wrote {options.folder / EVALUATION} and the table in {options.folder / README}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="examples.evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="HF_DIR", help="exported model")
    parser.add_argument(
        "--tasks",
        type=task_list,
        default=list(LEADERBOARD),
        metavar="NAMES",
        help=f"comma list of tasks of lm-eval and of task files [{','.join(LEADERBOARD)}]",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="ask only the first N questions of each task")
    parser.add_argument("--num_fewshot", type=int, metavar="N", help="examples in each prompt [as on the leaderboard]")
    parser.add_argument("--batch_size", type=positive, default=8, metavar="N", help="prompts evaluated together [8]")
    parser.add_argument(
        "--plain", action="store_true", help="no chat template: prompts as on the leaderboard of the published cards"
    )
    parser.add_argument("--card", metavar="NAME", help="published model whose name results get")
    return parser


def task_list(text: str) -> list[str]:
    tasks = [task.strip() for task in text.split(",") if task.strip()]
    if not tasks:
        raise argparse.ArgumentTypeError("names no task")
    return tasks


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def write_results(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Write results of lm-eval to evaluation.json and the model card of a folder, and update SHA256SUMS for both.

    `record` is the result of `evaluate`, and `name` the name that the model gets in the card. A folder without a card
    gets a new one.
    """
    write_text_atomic(folder / EVALUATION, json.dumps(record, indent=2, default=str) + "\n")
    readme = folder / README
    card = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {name}\n"
    write_text_atomic(readme, with_evaluation(card, name, evaluation_of(record)))
    renew_sums(folder, [EVALUATION, README])


if __name__ == "__main__":
    sys.exit(main())
