"""`<output>.building`: the folder in which an output is built, and where a killed build resumes.

OUTPUT.building/plan.json     the plan that the parts belong to
OUTPUT.building/parts/        the part files of finished tasks
OUTPUT.building/output/       the folder that is renamed to OUTPUT at the end
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from pretokenizer.files.publish import locked, naming
from pretokenizer.tasks.plan import BuildError, Plan
from pretokenizer.tasks.plan_file import PLAN_NAME, fingerprint_in, write_plan

LOCK_PATIENCE_SECONDS = 5.0
"""Seconds to wait for the lock, because the workers of a killed build need a moment to exit."""


def refuse_finished(final: Path, overwrite: bool) -> None:
    """Raise BuildError when the output `final` exists already and `overwrite` is false."""
    if final.exists() and not overwrite:
        raise BuildError(f"{final}: exists already; give --overwrite to replace it, or another --output_dir")


def work_path(final: Path) -> Path:
    """Return the path of the work folder in which the output `final` is built, `<final>.building`."""
    return final.with_name(final.name + ".building")


@contextlib.contextmanager
def work_folder(work: Path, plan: Plan, overwrite: bool) -> Iterator[None]:
    """Create the folder `work` for the finished parts of a build, or resume with the parts in it; lock it in the block.

    Parts of another plan are removed with `overwrite`, and raise BuildError without it. Raises BusyError when another
    process holds the lock.
    """
    parts, unpublished = work / "parts", work / "output" / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with naming(work), locked(work, work, LOCK_PATIENCE_SECONDS):
        if unpublished.is_dir():  # `build --part` was killed just before it published its folder
            shutil.rmtree(parts)
            unpublished.rename(parts)
        is_other = (work / PLAN_NAME).is_file() and fingerprint_in(work / PLAN_NAME) != plan.fingerprint()
        if is_other and any(parts.glob("*.json")):  # without a finished part there is nothing to mix up
            if not overwrite:
                raise BuildError(
                    f"{work}: holds an unfinished build with another configuration or other inputs; remove this folder"
                    " or give --overwrite to start over, or choose another --output_dir"
                )
            shutil.rmtree(parts)
            parts.mkdir()
        write_plan(plan, work)
        yield


def fresh_folder(path: Path) -> Path:
    """Remove the folder at `path` if it exists, create it empty, and return its path."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
