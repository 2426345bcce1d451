"""Log values to TensorBoard and Weights & Biases through one interface. The reporter does this on rank 0 only.

trackers = Trackers(config, iteration, samples)
trackers.log(values, iteration, samples)
trackers.close()
"""

from __future__ import annotations

import netrc
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from megatron_train.config.settings import TrainConfig
from megatron_train.report.console import warn
from pretokenizer.files.publish import write_text_atomic

WANDB_ID_FILE = "wandb_run_id.txt"


class Trackers:
    """The trackers that a run's settings name: TensorBoard, Weights & Biases, both or none.

    A tracker never ends a run: one that fails is dropped with a warning. metrics.jsonl still has every value.
    """

    def __init__(self, config: TrainConfig, iteration: int, samples: int) -> None:
        """Open the trackers of a run that has done `iteration` iterations over `samples` training samples.

        TensorBoard then hides the values that an earlier launch logged after this point.
        """
        self._open: dict[str, Any] = {}
        if folder := config.logging.tensorboard_dir:
            self._try("--tensorboard_dir", lambda: _TensorBoard(Path(folder), iteration, samples))
        if config.logging.wandb_logger:
            self._try("--wandb_logger", lambda: _start_wandb(config, resumed=iteration > 0))

    def _try(self, name: str, action: Callable[[], Any]) -> None:
        """Keep the result of `action` as the tracker `name`. Drop the tracker if the action fails or returns None."""
        tracker = None
        try:
            tracker = action()
        except Exception as error:  # no error of a tracker may end the run
            warn(f"{name}: {type(error).__name__}: {error}; the run continues without it")
        if tracker is None:
            self._open.pop(name, None)
        else:
            self._open[name] = tracker

    def log(self, values: dict[str, float], iteration: int, samples: int | None = None) -> None:
        """Log the values at `iteration` to every open tracker.

        If `samples` is given, TensorBoard also draws the values with Megatron's names over the number of consumed
        samples.
        """
        for name, tracker in list(self._open.items()):
            self._try(name, partial(_logged, tracker, values, iteration, samples))

    def close(self) -> None:
        """Flush and close the trackers that are open."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)


def _logged(tracker: Any, values: dict[str, float], iteration: int, samples: int | None) -> Any:
    """Log the values to the tracker, and return the tracker, so that Trackers keeps it."""
    tracker.log(values, iteration, samples)
    return tracker


class _TensorBoard:
    """Writes TensorBoard event files: curves over iterations in `folder`, and curves over samples in `folder`/samples.

    Two folders are needed, because on resume TensorBoard hides the later values of a folder by the steps of one axis.
    """

    def __init__(self, folder: Path, iteration: int, samples: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.by_iteration = SummaryWriter(str(folder), purge_step=iteration + 1)
        self.by_samples = SummaryWriter(str(folder / "samples"), purge_step=samples + 1)

    def log(self, values: dict[str, float], iteration: int, samples: int | None) -> None:
        for name, value in values.items():
            self.by_iteration.add_scalar(name, value, iteration)
            if samples is not None and "/" not in name:
                self.by_samples.add_scalar(f"{name} vs samples", value, samples)

    def close(self) -> None:
        self.by_iteration.close()
        self.by_samples.close()


class _Wandb:
    """Gives a run of Weights & Biases the methods of a tracker."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, values: dict[str, float], iteration: int, samples: int | None) -> None:
        self.run.log(values, step=iteration)

    def close(self) -> None:
        self.run.finish()


def _has_wandb_key() -> bool:
    """Return whether an API key is in WANDB_API_KEY, or in ~/.netrc, where `wandb login` stores it."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return bool(os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(config: TrainConfig, resumed: bool) -> Any:
    """Start a run of Weights & Biases, or continue it if `resumed`, and return its tracker.

    Returns None with a warning when the package is not installed or there is no API key.
    """
    try:
        import wandb
    except ImportError:
        warn("--wandb_logger: the package is not installed (pip install wandb); the run continues without it")
        return None
    if not _has_wandb_key() and os.environ.get("WANDB_MODE") not in {"offline", "disabled"}:
        warn("--wandb_logger: neither WANDB_API_KEY nor a key of `wandb login`; the run continues without it")
        return None
    run = wandb.init(
        project=config.logging.wandb_project,
        id=_wandb_run_id(config, resumed),
        config=asdict(config),
        dir=config.logging.tensorboard_dir,
        resume="allow",
    )
    return _Wandb(run)


def _wandb_run_id(config: TrainConfig, resumed: bool) -> str | None:
    """Return the Weights & Biases id of the run, from a file beside its checkpoints.

    A resumed run keeps its id and so continues its own curves; a new run gets a random id. Returns None, which lets
    wandb choose, without --save or when WANDB_RUN_ID is set.
    """
    if not config.checkpoint.save or os.environ.get("WANDB_RUN_ID"):
        return None
    path = Path(config.checkpoint.save) / WANDB_ID_FILE
    if not (resumed and path.is_file()):
        write_text_atomic(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()
