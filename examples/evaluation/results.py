"""Results of lm-eval as JSON, as a table of a model card, and as the card's `model-index`.

evaluation = read_evaluation(Path("my-model/evaluation.json"))
card = with_evaluation(card, "my-model", evaluation)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from examples.evaluation.leaderboard import LEADERBOARD

EVALUATION = "evaluation.json"
BEGIN, END = "<!-- evaluation -->", "<!-- end of evaluation -->"
SHARES = ("acc_norm", "acc", "exact_match", "f1", "mc2")
"""Metrics between 0 and 1, which cards show in percent. The first one that a task has is its main metric."""


@dataclass(frozen=True)
class Result:
    """The result of one task: its main metric."""

    task: str
    num_few_shot: int | None
    """Number of solved examples in each prompt, or None when the file does not state it."""
    metric: str
    """Name of the metric without lm-eval's filter, such as `acc_norm`."""
    value: float
    """Percent for the metrics in SHARES, else the number that lm-eval reports."""
    error: float | None
    """Standard error in the unit of `value`."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one model: the main metric of each task, as one results file states it."""

    results: list[Result]
    limit: int | None = None
    """Number of questions asked of each task, or None for all of them."""
    prompts: str = ""
    """How prompts are rendered, such as `no chat template`. Empty when the file does not state it."""


def read_evaluation(path: Path) -> Evaluation:
    """Read a results file of lm-eval, or one that `make evaluate` wrote. Raises ValueError for any other file."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return evaluation_of(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no results file of lm-evaluation-harness: {error!r}") from None


def evaluation_of(record: dict[str, Any]) -> Evaluation:
    """Return the main metric of each task in the contents of a results file (`record`).

    A file of `make evaluate` lists the tasks that the user named, so that the 57 parts of MMLU are one row. Raises
    KeyError or TypeError for other contents.
    """
    shots = record.get("n-shot", {})
    results = []
    for task in record.get("tasks") or list(record["results"]):
        metrics = record["results"][task]
        key = main_metric(task, metrics)
        if key is not None:
            results.append(_result(task, shots.get(task), key, metrics))
    limit = record.get("limit", (record.get("config") or {}).get("limit"))
    return Evaluation(results, int(limit) if limit else None, record.get("prompts", ""))


def main_metric(task: str, metrics: dict[str, Any]) -> str | None:
    """Return the key of the metric that stands for a task: the leaderboard's, else the first of SHARES, else any.

    `metrics` maps keys such as `acc_norm,none` to values. Return None when no value is a number.
    """
    numbers = [name for name, value in metrics.items() if isinstance(value, float) and "_stderr" not in name]
    if task in LEADERBOARD and LEADERBOARD[task].metric in numbers:
        return LEADERBOARD[task].metric
    known = [name for share in SHARES for name in numbers if name.partition(",")[0] == share]
    return next(iter([*known, *numbers]), None)


def _result(task: str, num_few_shot: int | None, key: str, metrics: dict[str, Any]) -> Result:
    name, _, filtered = key.partition(",")
    error = metrics.get(f"{name}_stderr,{filtered}")
    scale = 100 if name in SHARES else 1
    return Result(task, num_few_shot, name, scale * metrics[key], scale * error if isinstance(error, float) else None)


def table(evaluation: Evaluation) -> str:
    """Return the results as a Markdown table, followed by notes on prompts and limit."""
    lines = ["| task | examples in the prompt | metric | value | standard error |", "|---|---|---|---|---|"]
    for result in evaluation.results:
        shots = "" if result.num_few_shot is None else str(result.num_few_shot)
        error = "" if result.error is None else f"{result.error:.2f}"
        lines.append(f"| {title(result.task)} | {shots} | {result.metric} | {result.value:.2f} | {error} |")
    return "\n".join([*lines, "", *notes(evaluation)]).rstrip()


def notes(evaluation: Evaluation) -> list[str]:
    """Return the sentences below the table, on prompts and limit, as a list of one paragraph. Return [] without any."""
    sentences = [f"Prompts are rendered with {evaluation.prompts}."] if evaluation.prompts else []
    if evaluation.limit:
        sentences.append(f"Only the first {evaluation.limit:,} questions of each task were asked.")
    return [" ".join(sentences)] if sentences else []


def title(task: str) -> str:
    """Return the name of a task to show: the leaderboard's title, or else lm-eval's name."""
    return LEADERBOARD[task].title if task in LEADERBOARD else task


def model_index(name: str, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the `model-index` for a model card's front matter, from which the hub draws its table of results.

    `name` is the model's name.
    """
    return [{"name": name, "results": [_index_entry(result, evaluation) for result in evaluation.results]}]


def _index_entry(result: Result, evaluation: Evaluation) -> dict[str, Any]:
    known = LEADERBOARD.get(result.task)
    few_shot = {} if result.num_few_shot is None else {"num_few_shot": result.num_few_shot}
    arguments = {**few_shot, **({"limit": evaluation.limit} if evaluation.limit else {})}
    dataset: dict[str, Any] = {"name": result.task, "type": result.task}
    metric = {"type": result.metric, "value": round(result.value, 2)}
    if known:
        dataset = {"name": known.title, "type": known.dataset, "config": known.config, "split": known.split}
        metric = {"type": known.metric_type, "value": round(result.value, 2), "name": known.metric_name}
    if result.num_few_shot is not None and known:
        dataset["name"] += f" ({result.num_few_shot}-Shot)"
    dataset = {key: value for key, value in dataset.items() if value is not None}
    return {
        "task": {"type": "text-generation", "name": "Text Generation"},
        "dataset": {**dataset, **({"args": arguments} if arguments else {})},
        "metrics": [metric],
        "source": {"url": "https://github.com/EleutherAI/lm-evaluation-harness", "name": "lm-evaluation-harness"},
    }


def with_evaluation(card: str, name: str, evaluation: Evaluation) -> str:
    """Return a model card with the results as a section and in its front matter, for the model `name`.

    Results of an earlier call are replaced.
    """
    values, body = split_front_matter(card)
    values["model-index"] = model_index(name, evaluation)
    before, found, rest = body.partition(BEGIN)
    after = rest.partition(END)[2] if found else ""
    section = f"{BEGIN}\n## Evaluation\n\n{table(evaluation)}\n{END}"
    parts = [before.strip(), section, after.strip()]
    return f"{front_matter(values)}\n" + "\n\n".join(part for part in parts if part) + "\n"


def split_front_matter(card: str) -> tuple[dict[str, Any], str]:
    """Return the values of a model card's YAML header ({} without a header), and the text below it."""
    if not card.startswith("---\n"):
        return {}, card
    header, _, body = card[4:].partition("\n---\n")
    values = yaml.safe_load(header)
    return (values if isinstance(values, dict) else {}), body


def front_matter(values: dict[str, Any]) -> str:
    """Return the YAML header of a model card with these values, between lines of `---`."""
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"
