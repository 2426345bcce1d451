"""The folder in which an output is built, held by one process at a time."""

import contextlib
import dataclasses
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pretokenizer.files.publish import naming, read_json, write_json_atomic
from pretokenizer.tasks.plan import Plan

PLAN_NAME = "plan.json"
LOCK_PATIENCE_SECONDS = 5.0


class BuildError(ValueError):
    """A build that cannot go on; the message says what to do."""


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
        is_other = plan_path.is_file() and fingerprint_in(plan_path) != fingerprint
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


def fingerprint_in(plan_path: Path) -> str | None:
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
