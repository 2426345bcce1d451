"""The whole stage: plan, do the tasks, assemble, publish. Read this first.

Everything is made in `<folder>.building` beside the final folder. Killed at any moment and started again with the same
command, a build goes on after its last finished part; the final folder appears complete, by one rename.
"""

import contextlib
import dataclasses
import fcntl
import gc
import multiprocessing
import os
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from pretokenizer.chat.formats import ChatFormat
from pretokenizer.config.settings import PretokenizeConfig, RunOptions
from pretokenizer.files.manifest import MANIFEST_NAME, DataManifest
from pretokenizer.files.publish import naming, publish_folder, read_json, write_json_atomic
from pretokenizer.output.assemble import assemble
from pretokenizer.tasks.part_files import found_mismatch
from pretokenizer.tasks.plan import Plan, Task, load_plan_tokenizer, make_plan
from pretokenizer.tasks.runner import TaskRunner
from pretokenizer.tokenizer.tokenizer import Tokenizer

PLAN_NAME = "plan.json"
LOCK_PATIENCE_SECONDS = 5.0


class BuildError(ValueError):
    """A build that cannot go on; the message says what to do."""


def build(config: PretokenizeConfig, options: RunOptions) -> DataManifest:
    """Build the folder `config.output_folder`. Raises a ValueError of one of the package's kinds for bad input."""
    final = config.output_folder
    work = work_path(final)
    if not options.overwrite and _was_published(config, final, work):
        _tidy_up(config, final, work)
        return DataManifest.load(final)
    refuse_finished(final, options.overwrite)
    plan, loaded = make_plan(config), load_plan_tokenizer(config)
    tasks = list(plan.tasks)
    with (
        _rare_garbage_collection(),
        start_workers(plan, tasks, work / "parts", options, loaded) as pool,
        work_folder(work, plan, options.overwrite),
    ):
        run_tasks(plan, tasks, work / "parts", options, loaded, pool)
        output = fresh_folder(work / "output")
        manifest = assemble(plan, *loaded, [work / "parts"], output, final, options)
        publish(output, final)
    _tidy_up(config, final, work)
    return manifest


def _was_published(config: PretokenizeConfig, final: Path, work: Path) -> bool:
    """Whether this very build was killed between giving the folder its name and tidying up."""
    if not (final / MANIFEST_NAME).is_file() or not (work / PLAN_NAME).is_file() or (work / "output").exists():
        return False
    return _fingerprint_in(work / PLAN_NAME) == make_plan(config).fingerprint()


def _tidy_up(config: PretokenizeConfig, final: Path, work: Path) -> None:
    if config.compress:
        compress(final)
    shutil.rmtree(work)


@contextlib.contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Records hold no cycles; looking for some after every 700 objects takes 7 % of a build."""
    threshold = gc.get_threshold()
    gc.set_threshold(100_000, *threshold[1:])
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


def compress(folder: Path) -> None:
    """Pack a finished folder into `<folder>.tar.gz` beside it."""
    target = folder.with_name(folder.name + ".tar.gz")
    temporary = target.with_name(target.name + ".tmp")
    try:
        with tarfile.open(temporary, "w:gz") as archive:
            archive.add(folder, arcname=folder.name)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_finished(final: Path, overwrite: bool) -> None:
    """Raise BuildError when the output is there already and may not be replaced."""
    if final.exists() and not overwrite:
        raise BuildError(f"{final}: exists already; give --overwrite to replace it, or another --output_dir")


def work_path(final: Path) -> Path:
    """Where an output is made."""
    return final.with_name(final.name + ".building")


@contextlib.contextmanager
def work_folder(work: Path, plan: Plan, overwrite: bool) -> Iterator[None]:
    """The folder, held by one process at a time. Raises BuildError when it belongs to another plan."""
    fingerprint = plan.fingerprint()
    (work / "parts").mkdir(parents=True, exist_ok=True)
    with naming(work), (work / "lock").open("w") as lock:
        if not _lock(lock):
            raise BuildError(f"{work}: another process is building this output")
        if (work / "output" / "parts").is_dir():  # of `build --part`, killed just before it was published
            shutil.rmtree(work / "parts")
            (work / "output" / "parts").rename(work / "parts")
        plan_path = work / PLAN_NAME
        is_other = plan_path.is_file() and _fingerprint_in(plan_path) != fingerprint
        if is_other and any((work / "parts").glob("*.json")):  # with no part finished there is nothing to mix
            if not overwrite:
                raise BuildError(
                    f"{work}: an unfinished build with another configuration or other inputs; remove this folder or"
                    " give --overwrite to start over, or choose another --output_dir"
                )
            shutil.rmtree(work / "parts")
            (work / "parts").mkdir()
        write_json_atomic(
            plan_path, {"fingerprint": fingerprint, "config": dataclasses.asdict(plan.config)}, sync=False
        )
        yield


def _fingerprint_in(plan_path: Path) -> str | None:
    try:
        return str(read_json(plan_path)["fingerprint"])
    except (ValueError, LookupError, TypeError):
        return None  # damaged: as good as another plan


def _lock(file: IO[str]) -> bool:
    """Lock a file; the workers of a build that was just killed may hold it for a moment more."""
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)


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


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`, whatever was there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def publish(output: Path, final: Path) -> None:
    """Give the finished folder its name; an old one (--overwrite) is moved aside first and then removed."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    publish_folder(output, final)
    shutil.rmtree(old, ignore_errors=True)
