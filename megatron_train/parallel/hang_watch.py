"""A rank that stalls is named, and the job ends: a thread of each rank tells the others what the rank is doing.

    with HangWatch(timer, timeout_minutes=10):
        ...                                        # the training loop, which tells `timer` its phases

A rank whose process is stopped, swapped out or gone no longer tells anything. At 80 % of the timeout, before the
waiting ranks' own exchanges give up, every live rank prints the stacks of its threads, one of them says which rank it
is, and they end with exit code 1. A rank that lives but does not get on is told of with its stacks; the exchange it
keeps waiting then ends the job. What is told goes through the store of the process group: no collective, so nothing of
it can hang, on NCCL or gloo.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from megatron_train.report.console import tell_failure
from megatron_train.report.phases import PhaseTimer

SHARE_OF_TIMEOUT = 0.8
LEFT, UNHEARD = "left", "0 0 start"


class HangWatch:
    """All ranks enter and leave it together; one process alone is not watched. `end` is called with the message."""

    def __init__(self, timer: PhaseTimer, timeout_minutes: float, end: Callable[[str], None] | None = None) -> None:
        self.timer, self.limit = timer, SHARE_OF_TIMEOUT * 60 * timeout_minutes
        self.tick = min(5.0, self.limit / 20)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.end = end or _end_process
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard: dict[int, tuple[str, float]] = {0: (UNHEARD, time.monotonic())}
        """Rank -> what it last told, and when that was new."""
        self._told_of, self._answered = -1, 0.0
        self._store: Any = None

    def __enter__(self) -> HangWatch:
        if self.world > 1:
            # A connection of its own: the training thread may block on the other one.
            store: Any = dist.distributed_c10d._get_default_store()
            self._store = dist.PrefixStore("hang_watch", store.clone())
            self._answered = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="hang watch", daemon=True)
            self._thread.start()
            threading.Thread(target=self._guard_store, name="hang watch of the store", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join(timeout=2 * self.tick + 1)

    def _run(self) -> None:
        beat, started = 0, time.monotonic()
        try:
            while not self._stop.wait(self.tick):
                beat += 1
                self._store.set(str(self.rank), f"{beat} {self.timer.iteration} {self.timer.phase}")
                self._look_at_others(started)
                self._look_at_myself()
                if self._store.check(["stalled"]):
                    self._leave(self._store.get("stalled").decode())
                    return
                self._answered = time.monotonic()
            self._store.set(str(self.rank), LEFT)
        except dist.DistError:
            return  # the store is gone with the process that held it; the launcher ends the others

    def _look_at_others(self, started: float) -> None:
        """Rank 0 looks at all, the others at rank 0: as many questions as ranks."""
        now = time.monotonic()
        for rank in range(1, self.world) if self.rank == 0 else (0,):
            told = self._store.get(str(rank)).decode() if self._store.check([str(rank)]) else UNHEARD
            before, since = self._heard.get(rank, ("", started))
            self._heard[rank] = (told, since if told == before else now)
            silent = now - self._heard[rank][1]
            if told != LEFT and silent > self.limit:
                message = (
                    f"rank {rank} has given no sign of life for {silent:.0f} s, last in {_where(told)}: its process is "
                    "stopped, swapped out or its machine is gone; the others end here with their stacks above"
                )
                # The first to find out says so; all others find it there.
                self._store.compare_set("stalled", "", message)

    def _guard_store(self) -> None:
        """Without torchrun, rank 0 holds the store: when it stops, so do all questions about it."""
        while not self._stop.wait(self.tick):
            silent = time.monotonic() - self._answered
            if silent > self.limit and self._thread is not None and self._thread.is_alive():
                self._leave(
                    f"rank 0 has given no sign of life for {silent:.0f} s, last in {_where(self._heard[0][0])}, nor "
                    "has the store of this launch, which it or torchrun on its machine holds: one of the two is "
                    "stopped, swapped out or its machine is gone; the others end here with their stacks above"
                )
                return

    def _look_at_myself(self) -> None:
        timer = self.timer
        if time.perf_counter() - timer.entered < self.limit or self._told_of == timer.changes:
            return
        self._told_of = timer.changes
        text = f"rank {self.rank} has been in iteration {timer.iteration} ({timer.phase}) for {self.limit:.0f} s"
        others = "".join(f"\n  rank {rank} is in {_where(told)}" for rank, (told, _) in sorted(self._heard.items()))
        _print(f"warning: {text}{others if self.rank == 0 else ''}\n{stacks(self.rank)}")

    def _leave(self, message: str) -> None:
        _print(stacks(self.rank))
        time.sleep(2 * self.tick)  # the others' turn to print theirs
        first = min(set(range(self.world)) - {int(message.split()[1])})
        if self.rank == first:
            tell_failure(message)
        self.end(message)


def _where(told: str) -> str:
    """`17 8 read` -> "iteration 8 (read)"."""
    _, iteration, phase = told.split(" ", 2)
    return f"iteration {iteration} ({phase})"


def stacks(rank: int) -> str:
    """The stacks of all threads of this process, in one piece, so that those of several ranks do not mix."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return f"rank {rank}, where its threads are:\n{file.read()}"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end_process(_: str) -> None:
    sys.stdout.flush()
    os._exit(1)  # the training thread waits inside an exchange and cannot be asked
