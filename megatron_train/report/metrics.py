"""What a run tells: the console line, metrics.jsonl, TensorBoard and Weights & Biases. Rank 0 only.

metrics.jsonl has one object a line; the keys are those of StepReport, or `iteration` and `eval: {name: {...}}`.
"""

from __future__ import annotations

import json
import math
import netrc
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean as mean
from typing import Any
from urllib.parse import urlsplit

import torch
from tqdm import tqdm

from megatron_train.config.settings import TrainConfig
from megatron_train.parallel.device import uses_cuda
from megatron_train.parallel.distributed import is_printing_rank, warn
from megatron_train.report.flops import PEAK_TFLOPS
from pretokenizer.files.publish import naming, write_text_atomic

METRICS_FILE = "metrics.jsonl"
WANDB_ID_FILE = "wandb_run_id.txt"


@dataclass(frozen=True)
class StepReport:
    """One iteration over all ranks."""

    iteration: int
    lm_loss: float
    """Mean loss of the target tokens, as the gradient saw it."""
    lr: float
    """The rate this iteration used."""
    grad_norm: float
    num_target_tokens: int
    num_tokens: int
    """Positions that hold a document; padding is not counted."""
    tokens_per_second: float
    """num_tokens over step_seconds."""
    mfu: float | None
    consumed_train_samples: int
    epoch: float
    step_seconds: float
    skipped: bool
    """The update was not applied: not finite, a spike, or listed in skip_iters."""
    loss_scale: float = 1.0
    phases: dict[str, float] | None = None
    """Seconds by phase, with --timing_log_level 1."""


def peak_flops(config: TrainConfig) -> float | None:
    """FLOP/s of one device, or None where it is not known."""
    if config.logging.peak_tflops:
        return config.logging.peak_tflops * 1e12
    if not uses_cuda():
        return None
    name = torch.cuda.get_device_name()
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def console_line(report: StepReport, train_iters: int) -> str:
    """One line a person can read at a glance."""
    left = (train_iters - report.iteration) * report.step_seconds
    parts = [
        f"iter {report.iteration:>{len(str(train_iters))}}/{train_iters}",
        f"loss {report.lm_loss:.4f}",
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
    """Writes reports to every place that was asked for."""

    def __init__(self, config: TrainConfig, iteration: int, samples: int) -> None:
        """`iteration` and `samples`: how far the run has come; what was reported beyond is taken back."""
        self.config = config
        self.path = Path(config.checkpoint.save) / METRICS_FILE if config.checkpoint.save else None
        self.tensorboard: Any = None
        self.by_samples: Any = None
        """A TensorBoard run of its own: what a resumed run takes back is counted in the steps of one."""
        self.wandb: Any = None
        if not is_printing_rank():
            return
        iterations = config.batch.train_iters
        self.bar = tqdm(total=iterations, initial=iteration, desc="train", unit="it", disable=None, leave=False)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut_back(self.path, iteration)
        if config.logging.tensorboard_dir:
            from torch.utils.tensorboard import SummaryWriter

            folder = Path(config.logging.tensorboard_dir)
            self.tensorboard = SummaryWriter(str(folder), purge_step=iteration + 1)
            self.by_samples = SummaryWriter(str(folder / "samples"), purge_step=samples + 1)
        if config.logging.wandb_logger:
            self.wandb = _start_wandb(config, resumed=iteration > 0)

    def step(self, report: StepReport) -> None:
        """Every iteration goes to the files, each `log_interval`-th to the console."""
        if not is_printing_rank():
            return
        self._write(asdict(report))
        self._scalars(report.iteration, step_scalars(report), report.consumed_train_samples)
        if (
            report.iteration % self.config.logging.log_interval == 0
            or report.skipped
            or not math.isfinite(report.lm_loss)
        ):
            self._say(console_line(report, self.config.batch.train_iters))
        self.bar.update()

    def evaluation(self, iteration: int, results: dict[str, dict[str, float]], kind: str = "eval") -> None:
        """`results`: name -> {loss, ppl, token_accuracy, num_target_tokens}."""
        if not is_printing_rank() or not results:
            return
        self._write({"iteration": iteration, kind: results})
        for name, result in results.items():
            self._say(
                f"{kind} after {iteration} | {name} | loss {result['loss']:.4f} | ppl {result['ppl']:.3f} | "
                f"token accuracy {result['token_accuracy']:.1%} | {result['num_target_tokens']:,} target tokens"
            )
        self._scalars(iteration, evaluation_scalars(results, kind))

    def close(self) -> None:
        if is_printing_rank():
            self.bar.close()
        if self.tensorboard:
            self.tensorboard.close()
            self.by_samples.close()
        if self.wandb:
            self.wandb.finish()

    def _say(self, line: str) -> None:
        """A line above the progress bar, which is there on terminals only."""
        self.bar.clear()
        print(line, flush=True)
        self.bar.refresh()

    def _write(self, record: dict[str, Any]) -> None:
        if self.path:
            with naming(self.path), self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _scalars(self, iteration: int, values: dict[str, float], samples: int | None = None) -> None:
        """TensorBoard gets Megatron's values by `samples` besides; Weights & Biases has one axis."""
        if self.tensorboard:
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, iteration)
                if samples is not None and "/" not in name:
                    self.by_samples.add_scalar(f"{name} vs samples", value, samples)
        if self.wandb:
            self.wandb.log(values, step=iteration)


def step_scalars(report: StepReport) -> dict[str, float]:
    """An iteration under Megatron's names, and under those of Hugging Face's Trainer."""
    optional = {"mfu": report.mfu, "loss_scale": report.loss_scale if report.loss_scale != 1.0 else None}
    return {
        "lm loss": report.lm_loss,
        "learning_rate": report.lr,
        "grad_norm": report.grad_norm,
        "tokens-per-sec": report.tokens_per_second,
        "iteration-time": report.step_seconds,
        "epoch": report.epoch,
        **{name: value for name, value in optional.items() if value is not None},
        "train/loss": report.lm_loss,
        "train/learning_rate": report.lr,
        "train/grad_norm": report.grad_norm,
        "train/epoch": report.epoch,
        "train/global_step": report.iteration,
    }


def evaluation_scalars(results: dict[str, dict[str, float]], kind: str) -> dict[str, float]:
    """Megatron has one set, so its names stand for the mean of the sets; Hugging Face names each set."""
    megatron = "lm loss validation" if kind == "eval" else f"lm loss {kind}"
    loss = mean([result["loss"] for result in results.values()])
    scalars = {megatron: loss, f"{megatron} ppl": math.exp(min(loss, 20.0)), f"{kind}/loss": loss}
    for name, result in results.items():
        scalars[f"{kind}/{name}_loss"] = result["loss"]
        scalars[f"{kind}/{name}_ppl"] = result["ppl"]
        scalars[f"{kind}/{name}_accuracy"] = result["token_accuracy"]
    return scalars


def cut_back(path: Path, iteration: int) -> None:
    """Drops the lines after `iteration`, so that a resumed run does not report an iteration twice; also a torn last
    line.
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


def _has_wandb_key() -> bool:
    """In the environment, or in ~/.netrc, where `wandb login` puts it."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return bool(os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(config: TrainConfig, resumed: bool) -> Any:
    try:
        import wandb
    except ImportError:
        warn("--wandb_logger: the package is not installed (pip install wandb); going on without it")
        return None
    if not _has_wandb_key() and os.environ.get("WANDB_MODE") not in {"offline", "disabled"}:
        warn("--wandb_logger: neither WANDB_API_KEY nor a key of `wandb login`; going on without it")
        return None
    return wandb.init(
        project=config.logging.wandb_project,
        id=_wandb_run_id(config, resumed),
        config=asdict(config),
        dir=config.logging.tensorboard_dir,
        resume="allow",
    )


def _wandb_run_id(config: TrainConfig, resumed: bool) -> str | None:
    """A resumed run goes on in its own curves: their id lies beside the checkpoints. None: wandb chooses one."""
    if not config.checkpoint.save or os.environ.get("WANDB_RUN_ID"):
        return None
    path = Path(config.checkpoint.save) / WANDB_ID_FILE
    if not (resumed and path.is_file()):
        write_text_atomic(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()
