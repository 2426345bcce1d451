"""Where an iteration's time goes, and a torch profiler over chosen iterations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_train.config.settings import TrainConfig
from megatron_train.report.console import say

BETWEEN = ("evaluate", "save")
"""Phases between two iterations, reported with the next one."""


class PhaseTimer:
    """What this rank is doing, and how long each phase of the iteration took.

    With `exact`, waits for the device at each change, which costs overlap on a GPU.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact and torch.cuda.is_available()
        self.iteration, self.phase, self.changes = 0, "start", 0
        self.seconds: dict[str, float] = {}
        """Of the phases of this iteration that are over; of evaluating and saving, since the iteration before."""
        self.entered = self._started = time.perf_counter()

    def start(self, iteration: int, phase: str) -> None:
        """`iteration`, counted from 1, begins with `phase`."""
        self.enter(phase)
        self.seconds = {name: seconds for name, seconds in self.seconds.items() if name in BETWEEN}
        self.iteration, self._started = iteration, self.entered

    def enter(self, phase: str) -> None:
        if self.exact:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self.phase] = now - self.entered
        self.phase, self.entered = phase, now
        self.changes += 1

    def total(self) -> float:
        """Seconds since the iteration began."""
        return time.perf_counter() - self._started


class Profiler:
    """Traces iterations first to last of `profile_iters`, one Chrome trace file per rank in save/profile."""

    def __init__(self, config: TrainConfig) -> None:
        self.span = config.logging.profile_iters
        self.folder = Path(config.checkpoint.save or ".") / "profile"
        self._profile: Any = None

    def before(self, iteration: int) -> None:
        """`iteration` counts from 1 and is about to run."""
        if self.span and iteration == self.span[0]:
            self._profile = torch.profiler.profile(record_shapes=True, with_stack=False)
            self._profile.start()

    def after(self, iteration: int) -> None:
        if self._profile is not None and iteration == self.span[-1]:
            self._profile.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self.folder / f"rank_{dist.get_rank():05d}.json"))
            self._profile = None
            say(f"profile of iterations {self.span[0]} to {self.span[-1]} in {self.folder}")
