"""Real gloo processes for tests: `run_distributed(fn, world_size, *arguments)` -> what `fn` returned on each rank.

`fn` is a function of a test module (it is found by name in the new processes). A launch costs seconds, so run many
cases in one. The first rank that fails ends the others, and its traceback is the error message.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05


def run_distributed(fn: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 300.0) -> list[Any]:
    """Results by rank. `fn` runs after `device.install()` and `init_process_group`. AssertionError on failure."""
    with tempfile.TemporaryDirectory() as folder:
        # Set before the children start, as torch reads it when it is imported there.
        saved = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            context = multiprocessing.get_context("spawn")
            processes = [
                context.Process(target=_child, args=(fn, rank, world_size, folder, arguments))
                for rank in range(world_size)
            ]
            for process in processes:
                process.start()
        finally:
            os.environ.pop("OMP_NUM_THREADS") if saved is None else os.environ.update(OMP_NUM_THREADS=saved)
        try:
            _wait(processes, Path(folder), timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [pickle.loads((Path(folder) / f"result{rank}").read_bytes()) for rank in range(world_size)]  # noqa: S301


def _wait(processes: list[Any], folder: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while any(process.is_alive() for process in processes):
        time.sleep(POLL_SECONDS)
        failed = [rank for rank, process in enumerate(processes) if process.exitcode]
        if failed:
            time.sleep(5 * POLL_SECONDS)  # the rank that failed first may not be the one seen first
            raise AssertionError(_report(folder, failed, processes))
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(processes)} processes did not finish within {timeout:.0f} s")
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    if failed:
        raise AssertionError(_report(folder, failed, processes))


def _report(folder: Path, failed: list[int], processes: list[Any]) -> str:
    traces = sorted(folder.glob("failed*"), key=lambda path: path.stat().st_mtime_ns)
    if traces:
        return f"rank {traces[0].name.removeprefix('failed')} of {len(processes)} failed:\n{traces[0].read_text()}"
    codes = ", ".join(f"rank {rank}: exit code {processes[rank].exitcode}" for rank in failed)
    return f"a process ended without a traceback ({codes})"


def _child(fn: Callable[..., Any], rank: int, world_size: int, folder: str, arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    try:
        import torch.distributed as dist

        from megatron_train.parallel.device import install

        install()
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
        result = fn(*arguments)
        temporary = Path(folder) / f"part{rank}"
        temporary.write_bytes(pickle.dumps(result))
        temporary.replace(Path(folder) / f"result{rank}")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        part = Path(folder) / f"trace{rank}"
        part.write_text(traceback.format_exc())
        part.replace(Path(folder) / f"failed{rank}")
        os._exit(1)
