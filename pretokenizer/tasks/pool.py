"""Run the tasks of a plan: in this process, in worker processes, or on a Ray cluster."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pretokenizer.config.settings import RunOptions
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.part_files import found_mismatch
from pretokenizer.tasks.plan import BuildError, Plan, Task
from pretokenizer.tasks.runner import TaskRunner


def run_tasks(context: BuildContext, tasks: list[Task], folder: Path, pool: ProcessPoolExecutor | None) -> None:
    """Run the unfinished tasks, which write their part files to `folder`.

    If any process finds the fast encoder wrong, the tasks run a second time and redo every piece that the reference
    encoder did not encode. `pool` comes from start_workers; without it, this process runs the tasks. Raises BuildError
    when a worker process dies.
    """
    options = context.options
    with contextlib.ExitStack() as stack:
        if pool is not None:
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        runner = TaskRunner(context, folder) if pool is None and options.executor != "ray" else None
        for _ in range(2):
            progress = stack.enter_context(tqdm(total=len(tasks), desc="read and encode", unit="part", disable=None))
            if options.executor == "ray":
                from pretokenizer.tasks.ray_executor import run_on_ray

                run_on_ray(context, tasks, folder, progress)
            elif runner is not None:
                for task in tasks:
                    runner.run(task)
                    progress.update()
            elif pool is not None:
                _run_in_pool(pool, tasks, progress)
            if found_mismatch(folder) is None:
                break


@contextlib.contextmanager
def start_workers(context: BuildContext, tasks: list[Task], folder: Path) -> Iterator[ProcessPoolExecutor | None]:
    """Start the worker processes, which get ready while this process continues, and yield their pool.

    Yield None when one process is enough, or when Ray runs the tasks.
    """
    count = min(context.options.workers, len(tasks))
    if count < 2 or context.options.executor == "ray":
        yield None
        return
    if sys.platform == "linux":  # a forked process inherits the loaded tokenizer
        fork = multiprocessing.get_context("fork")
        workers = ProcessPoolExecutor(count, fork, _start_forked, (context, folder, os.getpid()))
    else:
        spawn = multiprocessing.get_context("spawn")
        arguments = (context.plan, context.options, context.final, folder, os.getpid())
        workers = ProcessPoolExecutor(count, spawn, _start_spawned, arguments)
    with workers as pool:
        pool.submit(os.getpid)  # the first call starts the processes
        yield pool


_runner: TaskRunner | None = None
"""The object that runs tasks in a worker process; None in the main process."""


def _start_forked(context: BuildContext, folder: Path, parent: int) -> None:
    """Prepare a worker process: make the object that runs its tasks, and exit when the process `parent` ends."""
    global _runner
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    _runner = TaskRunner(context, folder)


def _start_spawned(plan: Plan, options: RunOptions, final: Path, folder: Path, parent: int) -> None:
    _start_forked(BuildContext.load(plan, options, final), folder, parent)


def _exit_with(parent: int) -> None:
    """Wait until the process `parent` ends, then exit this process. A killed parent cannot stop its workers itself."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run_in_worker(task: Task) -> None:
    assert _runner is not None
    _runner.run(task)


def _run_in_pool(pool: ProcessPoolExecutor, tasks: list[Task], progress: "tqdm[Any]") -> None:
    try:
        for future in as_completed([pool.submit(_run_in_worker, task) for task in tasks]):
            future.result()
            progress.update()
    except BrokenProcessPool:
        raise BuildError(
            "a worker process was killed, perhaps because memory ran out; run the same command again to resume,"
            " with fewer --workers to need less memory"
        ) from None
