"""Runs the tasks of a plan: in this process, in worker processes or on a Ray cluster."""

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

from pretokenizer.chat.formats import ChatFormat
from pretokenizer.config.settings import RunOptions
from pretokenizer.tasks.part_files import found_mismatch
from pretokenizer.tasks.plan import Plan, Task
from pretokenizer.tasks.runner import TaskRunner
from pretokenizer.tasks.work_folder import BuildError
from pretokenizer.tokenizer.base import Tokenizer


def run_tasks(
    plan: Plan,
    tasks: list[Task],
    folder: Path,
    options: RunOptions,
    loaded: tuple[Tokenizer, ChatFormat],
    pool: ProcessPoolExecutor | None,
) -> None:
    """Do the tasks that are not done yet, in this process or in the pool's; those that a fast way did again by the
    reference when it was found wrong on any of them.
    """
    with contextlib.ExitStack() as stack:
        if pool is not None:
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        runner = (
            TaskRunner(plan, folder, options.strict, loaded) if pool is None and options.executor != "ray" else None
        )
        for _ in range(2):
            progress = stack.enter_context(tqdm(total=len(tasks), desc="read and encode", unit="part", disable=None))
            if options.executor == "ray":
                from pretokenizer.tasks.ray_executor import run_on_ray

                run_on_ray(plan, tasks, folder, options, progress)
            elif runner is not None:
                for task in tasks:
                    runner.run(task)
                    progress.update()
            elif pool is not None:
                _run_in_pool(pool, tasks, progress)
            if found_mismatch(folder) is None:
                break


_runner: TaskRunner | None = None


@contextlib.contextmanager
def start_workers(
    plan: Plan, tasks: list[Task], folder: Path, options: RunOptions, loaded: tuple[Tokenizer, ChatFormat]
) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that prepare themselves while this one goes on; None where one process does it all."""
    count = min(options.workers, len(tasks))
    if count < 2 or options.executor == "ray":
        yield None
        return
    is_forked = sys.platform == "linux"
    context = multiprocessing.get_context("fork" if is_forked else "spawn")
    arguments = (plan, folder, options.strict, os.getpid(), loaded if is_forked else None)
    with ProcessPoolExecutor(count, context, _start_worker, arguments) as pool:
        pool.submit(os.getpid)  # the first call starts them
        yield pool


def _start_worker(
    plan: Plan, folder: Path, is_strict: bool, parent: int, loaded: tuple[Tokenizer, ChatFormat] | None
) -> None:
    global _runner
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    _runner = TaskRunner(plan, folder, is_strict, loaded)


def _leave_with(parent: int) -> None:
    """End this worker when the build was killed: nobody else would tell it."""
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
            "a worker process was killed, perhaps for want of memory; the same command goes on from here,"
            " and fewer --workers need less memory"
        ) from None
