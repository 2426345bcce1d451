"""Reasons to save and stop before the last iteration: SIGTERM, SIGUSR1, --exit_duration_in_mins, --exit_interval.

stop = StopRequest(config.logging, config.batch.train_iters)
...
if stop.due(iteration): save and stop         # every rank gets the same answer
"""

from __future__ import annotations

import signal
import time
from types import FrameType

import psutil

from megatron_train.config.settings import Logging
from megatron_train.parallel.distributed import sum_over_ranks


class StopRequest:
    """Remembers the first signal of this rank. `due` asks all ranks, so that no rank stops alone."""

    def __init__(self, logging: Logging, train_iters: int) -> None:
        self._logging, self._train_iters = logging, train_iters
        self._started = psutil.Process().create_time()  # start-up and loading count too
        self._signal: int | None = None
        self.signalled = False
        """Whether the reason to stop was a signal on any rank."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def due(self, iteration: int) -> str | None:
        """Return why the run must stop after `iteration`, or None. All ranks call this method."""
        minutes = (time.time() - self._started) / 60
        limit = self._logging.exit_duration_in_mins
        signalled, out_of_time = sum_over_ranks(
            [float(self._signal or 0), float(limit is not None and minutes >= limit)]
        )
        if signalled:
            self.signalled = True
            return "signal received"
        if out_of_time:
            return f"--exit_duration_in_mins {limit} reached"
        interval = self._logging.exit_interval
        if interval and iteration % interval == 0 and iteration < self._train_iters:
            return f"--exit_interval {interval} reached"
        return None
