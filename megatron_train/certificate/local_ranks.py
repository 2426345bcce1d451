"""Run a function on several gloo ranks, as processes of this machine, and collect what it returns on each rank.

    results = run_distributed(fn, world_size, *arguments)

`fn` must be a module-level function, because the other processes find it by name. The processes start once and serve
every later call, because importing torch and megatron-core takes seconds. Each call has its own process groups. `fresh`
starts new processes, for functions that change the state of their process. When a rank fails, all ranks end.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

GRACE_SECONDS = 0.5
"""Seconds to wait for further failures, because the first one seen may not be the first to happen."""


class RankError(RuntimeError):
    """Raised when a rank fails or does not finish in time. The message holds the traceback of the rank."""


def run_distributed(
    fn: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 300.0, fresh: bool = False
) -> list[Any]:
    """Run `fn(*arguments)` in `world_size` processes of this machine, and return the results in order of the ranks.

    Each process first calls `device.install("cpu")` and `init_process_group`. The processes are kept for later calls;
    with `fresh`, new ones start and end with this call. Raises RankError when a rank fails or when the ranks take
    longer than `timeout` seconds.
    """
    workers = [] if fresh else _WORKERS
    while len(workers) < world_size:
        workers.append(_Worker())
    try:
        with tempfile.TemporaryDirectory() as folder:
            for rank, worker in enumerate(workers[:world_size]):
                worker.connection.send((fn, rank, world_size, folder, arguments))
            results = _gather(workers[:world_size], timeout)
    except BaseException:
        _end(workers)
        raise
    if fresh:
        _end(workers)
    return results


class _Worker:
    """A process that runs one function after another."""

    def __init__(self) -> None:
        # Set before the process starts, because importing torch reads it.
        saved = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            context = multiprocessing.get_context("spawn")
            self.connection, there = context.Pipe()
            self.process = context.Process(target=_serve, args=(there,), daemon=True)
            self.process.start()
            there.close()
        finally:
            os.environ.pop("OMP_NUM_THREADS") if saved is None else os.environ.update(OMP_NUM_THREADS=saved)


_WORKERS: list[_Worker] = []


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
    workers.clear()


def _gather(workers: list[_Worker], timeout: float) -> list[Any]:
    deadline = time.monotonic() + timeout
    ranks = {worker.connection: rank for rank, worker in enumerate(workers)}
    results: dict[int, Any] = {}
    failures: list[tuple[float, int, str]] = []
    while len(results) < len(workers) and time.monotonic() < deadline:
        for connection in wait([c for c, rank in ranks.items() if rank not in results], timeout=GRACE_SECONDS):
            assert isinstance(connection, Connection)
            rank = ranks[connection]
            try:
                failed_at, results[rank] = connection.recv()
                if failed_at is not None:
                    failures.append((failed_at, rank, results[rank]))
            except EOFError:
                workers[rank].process.join(GRACE_SECONDS)
                failures.append((time.time(), rank, f"ended with exit code {workers[rank].process.exitcode}"))
                results[rank] = None
        if failures:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    if failures:
        _, rank, text = min(failures)
        raise RankError(f"rank {rank} of {len(workers)} failed:\n{text}")
    if len(results) < len(workers):
        raise RankError(f"{len(workers)} processes did not finish within {timeout:.0f} s")
    return [results[rank] for rank in range(len(workers))]


def _serve(connection: Connection) -> None:
    from megatron_train.parallel.device import quiet_known_warnings

    quiet_known_warnings()  # receiving a function imports its module, and megatron-core with it
    while True:
        try:
            fn, rank, world_size, folder, arguments = connection.recv()
        except EOFError:  # the other side has ended
            return
        try:
            connection.send((None, _work(fn, rank, world_size, folder, arguments)))
        except BaseException:
            connection.send((time.time(), traceback.format_exc()))


def _work(fn: Callable[..., Any], rank: int, world_size: int, folder: str, arguments: tuple[Any, ...]) -> Any:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    import torch.distributed as dist

    from megatron_train.parallel.device import install
    from megatron_train.parallel.distributed import freeze_imports, shutdown

    install("cpu")
    freeze_imports()
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    result = fn(*arguments)
    dist.barrier()
    shutdown()
    return result
