"""Report each iteration and evaluation: the console line, metrics.jsonl and the trackers, on rank 0 only.

metrics.jsonl has one JSON object per line. The keys of a step are the fields of StepReport. The keys of an
evaluation are `iteration` and `eval`, or `test` for the test sets, which maps the name of each set to its results.
evaluations.jsonl holds the evaluations as a table, with one flat object per evaluation and set.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from megatron_train.config.settings import TrainConfig
from megatron_train.report.console import is_printing_rank
from megatron_train.report.trackers import Trackers
from pretokenizer.files.publish import naming, write_text_atomic

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
LAUNCHES_FILE = "launches.jsonl"
"""One line per launch of a run in `save`: the iteration after which it began, and the time in UTC."""


@dataclass(frozen=True)
class StepReport:
    """The metrics of one training iteration, over all ranks."""

    iteration: int
    lm_loss: float
    """Mean loss over the target tokens, with the same weights as in the gradient."""
    lr: float
    """Learning rate of this iteration."""
    grad_norm: float
    """Global gradient norm before clipping; NaN after an fp16 overflow."""
    num_target_tokens: int
    """Sum of the loss weights, rounded. A token of --loss_roles has weight 1."""
    num_tokens: int
    """Row positions that hold a token of a document; padding does not count."""
    tokens_per_second: float
    """num_tokens / step_seconds."""
    mfu: float | None
    """Model FLOPs utilization: the share of the devices' peak FLOP/s that is used; None when the peak is not known."""
    consumed_train_samples: int
    epoch: float
    """Epochs of training data consumed since the run began."""
    step_seconds: float
    skipped: bool
    """Whether the weights were not updated: not finite, no target tokens, a spike, or listed in skip_iters."""
    loss_scale: float = 1.0
    phases: dict[str, float] | None = None
    """Seconds of each phase of the iteration, with --timing_log_level 1; otherwise None."""


def console_line(report: StepReport, train_iters: int) -> str:
    """Return the line that the console shows for one iteration."""
    left = (train_iters - report.iteration) * report.step_seconds
    parts = [
        f"iter {report.iteration:>{len(str(train_iters))}}/{train_iters}",
        f"loss {report.lm_loss:.4f}" if report.num_target_tokens else "no target tokens",
        f"lr {report.lr:.3g}",
        f"grad {report.grad_norm:.3g}",
        f"{report.tokens_per_second:,.0f} tok/s",
        f"{report.num_target_tokens / max(1, report.num_tokens):.0%} trained on",
        f"epoch {report.epoch:.2f}",
        f"{report.step_seconds:.2f} s/it",
        f"left {int(left // 3600)}:{int(left // 60 % 60):02d}:{int(left % 60):02d}",
    ]
    if report.mfu is not None:
        parts.insert(5, f"MFU {report.mfu:.1%}")
    if report.loss_scale != 1.0:
        parts.append(f"scale {report.loss_scale:g}")
    if report.skipped:
        finite = math.isfinite(report.grad_norm) and math.isfinite(report.lm_loss)
        parts.append("NOT APPLIED" if finite else "NOT APPLIED: not finite")
    if report.phases:
        parts.append(" ".join(f"{phase} {seconds:.3f}s" for phase, seconds in report.phases.items()))
    return " | ".join(parts)


class Reporter:
    """Writes the reports of a run to the console, to metrics.jsonl in --save, and to the trackers of the settings."""

    def __init__(self, config: TrainConfig, iteration: int, samples: int) -> None:
        """Open the progress bar, metrics.jsonl and the trackers of a run that has done `iteration` iterations.

        `samples` is the number of training samples consumed so far. Reports of an earlier launch about later iterations
        are removed.
        """
        self.config = config
        folder = Path(config.checkpoint.save) if config.checkpoint.save else None
        self.path = folder / METRICS_FILE if folder else None
        self.evaluations = folder / EVALUATIONS_FILE if folder else None
        if not is_printing_rank():
            return
        iterations = config.batch.train_iters
        self.bar = tqdm(total=iterations, initial=iteration, desc="train", unit="it", disable=None, leave=False)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            cut_back(folder / METRICS_FILE, iteration)
            cut_back(folder / EVALUATIONS_FILE, iteration)
            record_launch(folder, iteration)
        self.trackers = Trackers(config, iteration, samples)

    def step(self, report: StepReport) -> None:
        """Report one iteration to metrics.jsonl and the trackers, and to the console every `log_interval` iterations.

        The console also shows the last iteration, and each one that was skipped or whose loss is not finite.
        """
        if not is_printing_rank():
            return
        append_json(self.path, asdict(report))
        names = self.config.logging.metric_names
        self.trackers.log(step_scalars(report, names), report.iteration, report.consumed_train_samples)
        if (
            report.iteration % self.config.logging.log_interval == 0
            or report.iteration == self.config.batch.train_iters
            or report.skipped
            or not math.isfinite(report.lm_loss)
        ):
            self._say(console_line(report, self.config.batch.train_iters))
        self.bar.update()

    def evaluation(self, iteration: int, results: dict[str, dict[str, float]], kind: str = "eval") -> None:
        """Report an evaluation after `iteration` to the console, both files of JSON lines and the trackers.

        `results` maps each set to {loss, ppl, token_accuracy, num_target_tokens}; empty results of an interrupted
        evaluation are not reported. `kind` is the evaluation's name in the reports: `eval` for the validation sets,
        `test` for the test sets.
        """
        if not is_printing_rank() or not results:
            return
        append_json(self.path, {"iteration": iteration, kind: results})
        for name, result in results.items():
            append_json(self.evaluations, {"iteration": iteration, "kind": kind, "set": name, **result})
            self._say(
                f"{kind} after {iteration} | {name} | loss {result['loss']:.4f} | ppl {result['ppl']:.3f} | "
                f"token accuracy {result['token_accuracy']:.1%} | {result['num_target_tokens']:,} target tokens"
            )
        names = self.config.logging.metric_names
        self.trackers.log(evaluation_scalars(results, kind, names), iteration)

    def close(self) -> None:
        if is_printing_rank():
            self.bar.close()
            self.trackers.close()

    def _say(self, line: str) -> None:
        """Print a line above the progress bar. Only terminals show the bar."""
        self.bar.clear()
        print(line, flush=True)
        self.bar.refresh()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def append_json(path: Path | None, record: dict[str, Any]) -> None:
    """Append the record to a file as one line of JSON. Do nothing without a path, which a run has only with --save."""
    if path:
        with naming(path), path.open("a") as file:
            file.write(json.dumps(_as_json(record), allow_nan=False) + "\n")


def _as_json(value: Any) -> Any:
    """Return the value with None, JSON's null, in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def step_scalars(report: StepReport, names: str) -> dict[str, float]:
    """Return an iteration's metrics for the trackers, under the names that --metric_names chooses."""
    values = {
        ("lm loss", "train/loss"): report.lm_loss,
        ("learning_rate", "train/learning_rate"): report.lr,
        ("grad_norm", "train/grad_norm"): report.grad_norm,
        ("tokens-per-sec", "train/tokens_per_second"): report.tokens_per_second,
        ("iteration-time", "train/step_seconds"): report.step_seconds,
        ("epoch", "train/epoch"): report.epoch,
        ("mfu", "train/mfu"): report.mfu,
        ("loss_scale", "train/loss_scale"): report.loss_scale if report.loss_scale != 1.0 else None,
    }
    return {hf if names == "hf" else megatron: value for (megatron, hf), value in values.items() if value is not None}


def evaluation_scalars(results: dict[str, dict[str, float]], kind: str, names: str) -> dict[str, float]:
    """Return an evaluation's metrics for the trackers, by the names of their curves.

    The mean loss over all sets and its perplexity come first. Then each set has loss, perplexity and token accuracy
    under its own name; one set alone has only the accuracy there, because its loss is the mean. `kind` is `eval` or
    `test`, and `names` is the setting metric_names.
    """
    if names == "hf":
        prefix, loss, ppl, accuracy = f"{kind}/", "loss", "ppl", "accuracy"
    else:
        split = "validation" if kind == "eval" else kind
        prefix, loss, ppl, accuracy = "", f"lm loss {split}", f"lm loss {split} ppl", f"token accuracy {split}"
    mean = mean_loss(results)
    scalars = {prefix + loss: mean, prefix + ppl: math.exp(min(mean, 20.0))}
    for name, result in results.items():
        own = f"{prefix}{name}_" if names == "hf" else f"{name} "
        if len(results) > 1:
            scalars |= {own + loss: result["loss"], own + ppl: result["ppl"]}
        scalars[own + accuracy] = result["token_accuracy"]
    return scalars


def mean_loss(results: dict[str, dict[str, float]]) -> float:
    """Return the mean loss over the evaluation sets that have target tokens, or NaN when none has.

    Each set counts the same. The best checkpoint is the one with the lowest mean loss.
    """
    losses = [result["loss"] for result in results.values() if result["num_target_tokens"]]
    return sum(losses) / len(losses) if losses else math.nan


def record_launch(folder: Path, iteration: int) -> None:
    """Append a launch that has done `iteration` iterations to launches.jsonl, so that reports can mark resumptions.

    A run that starts over begins a new file.
    """
    line = json.dumps({"iteration": iteration, "date": datetime.now(UTC).isoformat(timespec="seconds")})
    with (folder / LAUNCHES_FILE).open("a" if iteration else "w") as file:
        file.write(line + "\n")


def cut_back(path: Path, iteration: int) -> None:
    """Remove the lines about iterations after `iteration` from a file of JSON lines, and a last line that is cut off.

    A resumed run then reports no iteration twice.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["iteration"] <= iteration:
            kept.append(line)
    write_text_atomic(path, "".join(line + "\n" for line in kept))
