"""The whole stage: plan, do the tasks, assemble, publish. Read this first.

Everything is made in `<folder>.building` beside the final folder. Killed at any moment and started again with the same
command, a build goes on after its last finished part; the final folder appears complete, by one rename.
"""

import contextlib
import gc
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pretokenizer.config.settings import PretokenizeConfig, RunOptions
from pretokenizer.files.manifest import MANIFEST_NAME, DataManifest
from pretokenizer.files.publish import publish_folder
from pretokenizer.output.assemble import assemble
from pretokenizer.tasks.plan import load_plan_tokenizer, make_plan
from pretokenizer.tasks.pool import run_tasks, start_workers
from pretokenizer.tasks.work_folder import PLAN_NAME, fingerprint_in, refuse_finished, work_folder, work_path


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
    return fingerprint_in(work / PLAN_NAME) == make_plan(config).fingerprint()


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
