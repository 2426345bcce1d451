"""Decide whether to save and stop early, for a signal, --exit_duration_in_mins or --exit_interval.

stop = StopRequest(config.logging, config.batch.train_iters)
...
if stop.due(iteration): save and stop         # every rank gets the same answer
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

import psutil

from megatron_train.config.settings import Logging
from megatron_train.parallel.distributed import sum_over_ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
REPEAT_SECONDS = 5.0
"""A second signal within this time of the first is ignored: a terminal sends Ctrl-C to all processes, and torchrun
then forwards it once more."""
_received_at: list[float] = []
"""The time.monotonic() at which this process received its first signal; empty before that."""


def signal_received() -> bool:
    """Return whether this process has received SIGTERM, SIGUSR1 or SIGINT since the run began."""
    return bool(_received_at)


class StopRequest:
    """Handles SIGTERM, SIGUSR1 and SIGINT, and decides on all ranks together whether the run stops early.

    A second signal, more than 5 s after the first, ends the process at once.
    """

    def __init__(self, logging: Logging, train_iters: int) -> None:
        self._logging, self._train_iters = logging, train_iters
        self._started = psutil.Process().create_time()  # start-up and loading count too
        self._signal: int | None = None
        self.signalled = False
        """Whether the run stops because any rank received a signal."""
        _received_at.clear()
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if _received_at and time.monotonic() - _received_at[0] > REPEAT_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not _received_at:
            _received_at.append(time.monotonic())
        self._signal = number

    def requested(self) -> str | None:
        """Return the reason to stop now, a signal on any rank or the end of --exit_duration_in_mins, or None.

        All ranks call this method and get the same result.
        """
        minutes = (time.time() - self._started) / 60
        limit = self._logging.exit_duration_in_mins
        signalled, out_of_time = sum_over_ranks(
            [float(self._signal or 0), float(limit is not None and minutes >= limit)]
        )
        if signalled:
            self.signalled = True
            return "signal received"
        return f"--exit_duration_in_mins {limit} reached" if out_of_time else None

    def due(self, iteration: int) -> str | None:
        """Return the reason to stop after `iteration`: that of `requested`, else --exit_interval; None = continue.

        All ranks call this method and get the same result.
        """
        interval = self._logging.exit_interval
        if interval and iteration % interval == 0 and iteration < self._train_iters:
            return self.requested() or f"--exit_interval {interval} reached"
        return self.requested()
