"""End the job when a rank stops responding, and name that rank.

    with HangWatch(timer, timeout_minutes=10):
        ...                                        # the training loop, which reports its phases to `timer`

A thread of each rank publishes a heartbeat: the iteration and phase that the rank is in. A rank whose process is
stopped, swapped out or gone publishes nothing. At 80 % of the timeout, before the collectives of the waiting ranks time
out, every live rank prints the stacks of its threads, one of them names the silent rank, and all end with exit code 1.
A rank that is alive but makes no progress prints a warning with its stacks, and the timeout of its collective ends the
job. When a rank fails with an error, or is silent after SIGTERM, the others end within seconds. Heartbeats go
through the store of the process group. They use no collective, so they cannot hang.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from megatron_train.parallel.stop_request import signal_received
from megatron_train.report.console import tell_failure
from megatron_train.report.phases import PhaseTimer

SHARE_OF_TIMEOUT = 0.8
TICKS_AFTER_SIGNAL = 3
"""Number of missing heartbeats that end the job once this rank has received SIGTERM. A launcher that has lost a rank
sends SIGTERM to the others."""


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life that a rank publishes, with the iteration and phase of training that it is in.

    `count` grows with each heartbeat. `has_left` says that the rank has left the watched block without an error.
    """

    count: int = 0
    iteration: int = 0
    phase: str = "start"
    has_left: bool = False

    def __str__(self) -> str:
        return f"iteration {self.iteration} ({self.phase})"


@dataclass(frozen=True)
class Stall:
    """The reason to end the job: `rank` is silent or, with `has_failed`, has raised an error. `message` says more."""

    rank: int
    message: str
    has_failed: bool = False


class HangWatch:
    """Context manager that watches the other ranks while its block runs. All ranks must enter and leave the block.

    With a single rank it does nothing. When a rank has failed, or has been silent for 80 % of `timeout_minutes` (less
    after SIGTERM), every other rank in the block calls `end` with a message that names it. By default, `end` ends the
    process with exit code 1. `timer` gives the iteration and phase of this rank.
    """

    def __init__(self, timer: PhaseTimer, timeout_minutes: float, end: Callable[[str], None] | None = None) -> None:
        self.timer, self.limit = timer, SHARE_OF_TIMEOUT * 60 * timeout_minutes
        self.tick = min(5.0, self.limit / 20)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.end = end or _end_process
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard: dict[int, tuple[Heartbeat, float]] = {0: (Heartbeat(), time.monotonic())}
        """Rank -> its last heartbeat, and the time.monotonic() at which this rank first saw it."""
        self._warned_at_change, self._store_answered = -1, 0.0
        self._store: Any = None
        self._error: BaseException | None = None

    def __enter__(self) -> HangWatch:
        if self.world > 1:
            # The training thread may block on the store's own connection, so this thread gets another one.
            store: Any = dist.distributed_c10d._get_default_store()
            number = (store.add("hang_watches", 1) - 1) // self.world  # watches of one launch do not share keys
            self._store = dist.PrefixStore(f"hang_watch/{number}", store.clone())
            self._store_answered = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="hang watch", daemon=True)
            self._thread.start()
            threading.Thread(target=self._guard_store, name="hang watch of the store", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._thread is not None:
            self._error = error
            self._stop.set()
            self._thread.join(timeout=2 * self.tick + 1)

    def _run(self) -> None:
        count, started = 0, time.monotonic()
        try:
            while not self._stop.wait(self.tick):
                count += 1
                self._publish(Heartbeat(count, self.timer.iteration, self.timer.phase))
                self._look_at_others(started)
                self._look_at_myself()
                if self._store.check(["stalled"]):
                    self._leave(Stall(**json.loads(self._store.get("stalled"))))
                    return
                self._store_answered = time.monotonic()
            if self._error is None:
                self._publish(Heartbeat(count, has_left=True))
            else:
                message = f"rank {self.rank} failed: {type(self._error).__name__}: {self._error}"
                self._store.compare_set("stalled", "", json.dumps(asdict(Stall(self.rank, message, has_failed=True))))
        except dist.DistError:
            return  # the store ended with the process that held it; the launcher ends the other ranks

    def _publish(self, heartbeat: Heartbeat) -> None:
        self._store.set(str(self.rank), json.dumps(asdict(heartbeat)))

    def _heartbeat_of(self, rank: int) -> Heartbeat:
        if not self._store.check([str(rank)]):
            return Heartbeat()
        return Heartbeat(**json.loads(self._store.get(str(rank))))

    def _look_at_others(self, started: float) -> None:
        """Read the heartbeats of other ranks, and publish a Stall when one has been silent for too long.

        Rank 0 reads those of all ranks, and the others only that of rank 0, to keep the load on the store low.
        """
        now = time.monotonic()
        for rank in range(1, self.world) if self.rank == 0 else (0,):
            heartbeat = self._heartbeat_of(rank)
            before, since = self._heard.get(rank, (None, started))
            self._heard[rank] = (heartbeat, since if heartbeat == before else now)
            silent = now - self._heard[rank][1]
            if not heartbeat.has_left and silent > (
                TICKS_AFTER_SIGNAL * self.tick if signal_received() else self.limit
            ):
                stall = Stall(
                    rank,
                    f"rank {rank} has given no sign of life for {silent:.0f} s, last in {heartbeat}: its process is "
                    "stopped or swapped out, or its machine is gone; the other ranks end, and their stacks are above",
                )
                # All ranks take the stall that was published first.
                self._store.compare_set("stalled", "", json.dumps(asdict(stall)))

    def _guard_store(self) -> None:
        """End this rank when the store of the process group stops answering.

        The store lives in rank 0, or with torchrun in its agent, so it is gone when that process or machine is.
        """
        while not self._stop.wait(self.tick):
            silent = time.monotonic() - self._store_answered
            if silent > self.limit and self._thread is not None and self._thread.is_alive():
                self._leave(
                    Stall(
                        0,
                        f"rank 0 has given no sign of life for {silent:.0f} s, last in {self._heard[0][0]}, and "
                        "neither has the store of this launch, which rank 0 or torchrun on its machine holds: one of "
                        "the two is stopped or swapped out, or its machine is gone; the other ranks end, and their "
                        "stacks are above",
                    )
                )
                return

    def _look_at_myself(self) -> None:
        """Print a warning with the stacks, once, when this rank has stayed in one phase for longer than the limit."""
        timer = self.timer
        if time.perf_counter() - timer.entered < self.limit or self._warned_at_change == timer.changes:
            return
        self._warned_at_change = timer.changes
        text = f"rank {self.rank} has been in iteration {timer.iteration} ({timer.phase}) for {self.limit:.0f} s"
        others = "".join(f"\n  rank {rank} is in {heartbeat}" for rank, (heartbeat, _) in sorted(self._heard.items()))
        _print(f"warning: {text}{others if self.rank == 0 else ''}\n{stacks(self.rank)}")

    def _leave(self, stall: Stall) -> None:
        """Call `end` on this rank because of `stall`.

        If the stalled rank is silent, this rank first prints its stacks, and the lowest live rank also prints the
        message. A rank that leaves the watched block meanwhile is not ended: it may have failed for the same reason.
        """
        if not stall.has_failed:
            _print(stacks(self.rank))
        if self._stop.wait(2 * self.tick):  # lets the other ranks print their stacks first
            return
        if not stall.has_failed and self.rank == min(set(range(self.world)) - {stall.rank}):
            tell_failure(stall.message)
        self.end(stall.message)


def stacks(rank: int) -> str:
    """Return the stacks of all threads of this process, headed by the number of this rank.

    Printed as one text, they do not mix with the stacks of other ranks.
    """
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return f"rank {rank}, where its threads are:\n{file.read()}"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end_process(_: str) -> None:
    sys.stdout.flush()
    os._exit(1)  # the training thread waits inside a collective and cannot be interrupted
