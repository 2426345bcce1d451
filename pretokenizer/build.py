"""The whole build: plan, run the tasks, assemble, publish. Read this file first.

Everything is written into `<output>.building` beside the output. A build that was killed at any moment resumes after
its last finished part when the same command runs again. One rename publishes the complete output, so a half-written
output is never visible.
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
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.plan import make_plan
from pretokenizer.tasks.plan_file import PLAN_NAME, fingerprint_in
from pretokenizer.tasks.pool import run_tasks, start_workers
from pretokenizer.tasks.work_folder import fresh_folder, refuse_finished, work_folder, work_path


def build(config: PretokenizeConfig, options: RunOptions) -> DataManifest:
    """Build the folder of shards `config.output_folder` and return its manifest.

    A killed build resumes after its last finished part. `options.overwrite` replaces an existing folder, and an
    unfinished build with another configuration or other inputs; without it, either raises BuildError. Raises
    ConfigError for a bad configuration, and other ValueErrors for data that is missing, damaged or too often bad.
    """
    final = config.output_folder
    work, parts = work_path(final), work_path(final) / "parts"
    if not options.overwrite and _was_published(config, final, work):
        _tidy_up(config, final, work)
        return DataManifest.load(final)
    refuse_finished(final, options.overwrite)
    context = BuildContext.load(make_plan(config), options, final)
    tasks = list(context.plan.tasks)
    with (
        _rare_garbage_collection(),
        start_workers(context, tasks, parts) as pool,
        work_folder(work, context.plan, options.overwrite),
    ):
        run_tasks(context, tasks, parts, pool)
        output = fresh_folder(work / "output")
        manifest = assemble(context, [parts], output)
        publish_folder(output, final, replace=options.overwrite)
    _tidy_up(config, final, work)
    return manifest


def _was_published(config: PretokenizeConfig, final: Path, work: Path) -> bool:
    """Return whether an earlier run of this build published `final` and was killed before it removed `work`."""
    if not (final / MANIFEST_NAME).is_file() or not (work / PLAN_NAME).is_file() or (work / "output").exists():
        return False
    return fingerprint_in(work / PLAN_NAME) == make_plan(config).fingerprint()


def _tidy_up(config: PretokenizeConfig, final: Path, work: Path) -> None:
    """Compress the published folder `final` if the configuration says so, and remove the work folder."""
    if config.compress:
        compress(final)
    shutil.rmtree(work)


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


@contextlib.contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Make Python's garbage collector search for reference cycles less often within the block.

    Records have no such cycles, and with the default settings the search takes 7 % of a build's time.
    """
    threshold = gc.get_threshold()
    gc.set_threshold(100_000, *threshold[1:])
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
