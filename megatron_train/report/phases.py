"""Measure the phases of an iteration, and run torch's profiler over chosen iterations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_train.config.settings import TrainConfig
from megatron_train.report.console import say

BETWEEN = ("evaluate", "save")
"""Phases that take place between two iterations. The report of the next iteration shows their seconds."""


class PhaseTimer:
    """Records the phase that this rank is in, such as `read` or `save`, and the seconds of each phase of an iteration.

    With `exact`, every change of phase waits for the GPU. The seconds are then exact, but CPU and GPU work overlap
    less.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact and torch.cuda.is_available()
        self.iteration, self.phase, self.changes = 0, "start", 0
        self.seconds: dict[str, float] = {}
        """Phase -> seconds, for each finished phase of this iteration and for an evaluation or save before it."""
        self.entered = self._started = time.perf_counter()

    def start(self, iteration: int, phase: str) -> None:
        """Begin `iteration`, counted from 1, with `phase`."""
        self.enter(phase)
        self.seconds = {name: seconds for name, seconds in self.seconds.items() if name in BETWEEN}
        self.iteration, self._started = iteration, self.entered

    def enter(self, phase: str) -> None:
        """End the current phase and begin `phase`."""
        if self.exact:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self.phase] = now - self.entered
        self.phase, self.entered = phase, now
        self.changes += 1

    def total(self) -> float:
        """Return the seconds since the iteration began."""
        return time.perf_counter() - self._started


class Profiler:
    """Runs torch's profiler from the first to the last iteration of --profile_iters.

    Each rank writes one Chrome trace file to the folder `profile` in --save, or in the current folder without --save.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.span = config.logging.profile_iters
        self.folder = Path(config.checkpoint.save or ".") / "profile"
        self._profile: Any = None

    def before(self, iteration: int) -> None:
        """Start the profiler if `iteration`, counted from 1, is the first one to profile."""
        if self.span and iteration == self.span[0]:
            self._profile = torch.profiler.profile(record_shapes=True, with_stack=False)
            self._profile.start()

    def after(self, iteration: int) -> None:
        """Stop the profiler and write its trace file if `iteration` is the last one to profile."""
        if self._profile is not None and iteration == self.span[-1]:
            self._profile.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self.folder / f"rank_{dist.get_rank():05d}.json"))
            self._profile = None
            say(f"profile of iterations {self.span[0]} to {self.span[-1]} in {self.folder}")
