"""Build on several machines: `build --part i --num_parts n` writes a part folder, `merge` joins them into one output.

A part folder holds `plan.json` (the whole plan), `parts/` (the files of its tasks) and `tokenizer/`, so that a merge
needs neither the input files nor the original tokenizer. The output has the same bytes as a build on one machine.
"""

import shutil
from pathlib import Path

from pretokenizer.build import compress
from pretokenizer.chat.formats import CHAT_FORMATS, TEMPLATE_NAME
from pretokenizer.chat.jinja_format import read_template
from pretokenizer.config.settings import PretokenizeConfig, RunOptions
from pretokenizer.encode.encoder import REFERENCE_ENV
from pretokenizer.files.checksums import SHA256SUMS, verify_sha256sums, write_sha256sums
from pretokenizer.files.manifest import DataManifest
from pretokenizer.files.publish import publish_folder, staged_folder
from pretokenizer.output.assemble import assemble
from pretokenizer.output.describe import save_tokenizer
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.part_files import found_mismatch, is_complete, read_header
from pretokenizer.tasks.plan import BuildError, Plan, make_plan
from pretokenizer.tasks.plan_file import PLAN_NAME, read_plan, write_plan
from pretokenizer.tasks.pool import run_tasks, start_workers
from pretokenizer.tasks.work_folder import fresh_folder, refuse_finished, work_folder, work_path
from pretokenizer.tokenizer.load import load_tokenizer_folder


def build_part(config: PretokenizeConfig, options: RunOptions) -> Path:
    """Build one part of a build that several machines share, and return the part folder, which `merge` needs.

    `options.num_parts` is the number of parts. This part has every num_parts-th task of the plan, starting with task
    `options.part`. Its folder is `<output>.parts/part-00000-of-00004`. Raises the same errors as `build`.
    """
    assert options.part is not None and options.num_parts is not None
    parent = config.output_folder.with_name(config.output_folder.name + ".parts")
    final = parent / f"part-{options.part:05d}-of-{options.num_parts:05d}"
    refuse_finished(final, options.overwrite)
    context = BuildContext.load(make_plan(config), options, final)
    work, parts = work_path(final), work_path(final) / "parts"
    tasks = list(context.plan.tasks[options.part :: options.num_parts])
    with start_workers(context, tasks, parts) as pool, work_folder(work, context.plan, options.overwrite):
        run_tasks(context, tasks, parts, pool)
        output = fresh_folder(work / "output")
        save_tokenizer(output / "tokenizer", context.tokenizer, context.chat_format)
        write_plan(context.plan, output)
        parts.rename(output / "parts")
        write_sha256sums(output)
        publish_folder(output, final, replace=options.overwrite)
    shutil.rmtree(work)
    return final


def merge(folders: list[Path], final: Path, options: RunOptions | None = None) -> DataManifest:
    """Join part folders into the output folder `final` and return its manifest.

    Raises BuildError for part folders that are missing, damaged or of different builds, and for an existing `final`
    without `options.overwrite`. Raises the errors of `assemble` for their data.
    """
    options = options or RunOptions()
    refuse_finished(final, options.overwrite)
    plan = _common_plan(folders)
    part_folders = [folder / "parts" for folder in folders]
    _refuse_missing_tasks(plan, part_folders)
    _refuse_mixed_encoders(part_folders)
    tokenizer = load_tokenizer_folder(folders[0] / "tokenizer")
    template = folders[0] / "tokenizer" / TEMPLATE_NAME
    chat_format = CHAT_FORMATS.get(plan.config.chat_format) or read_template(template, tokenizer)
    context = BuildContext(plan, tokenizer, chat_format, options, final)
    staging = final.with_name(final.name + ".merging")
    with staged_folder(final, staging=staging, replace=options.overwrite):
        manifest = assemble(context, part_folders, staging)
    if plan.config.compress:
        compress(final)
    return manifest


def _common_plan(folders: list[Path]) -> Plan:
    """Return the plan that all part folders share.

    Raises BuildError naming a folder that is damaged or belongs to another build.
    """
    for folder in folders:
        check_part(folder)
    plan = read_plan(folders[0])
    for folder in folders[1:]:
        if read_plan(folder).fingerprint() != plan.fingerprint():
            raise BuildError(f"{folder}: belongs to another build than {folders[0]} (configuration or inputs differ)")
    return plan


def check_part(folder: Path) -> None:
    """Raise BuildError when a folder was not written by `build --part`, or differs from its checksums."""
    if not (folder / SHA256SUMS).is_file() and not (folder / PLAN_NAME).is_file():
        raise BuildError(f"{folder / PLAN_NAME}: missing; {folder} is not a folder of `build --part`")
    problems = verify_sha256sums(folder)
    if problems:
        raise BuildError("; ".join(problems[:5]) + "; copy the folder again or build this part again")


def _refuse_missing_tasks(plan: Plan, part_folders: list[Path]) -> None:
    missing = [
        task.index
        for task in plan.tasks
        if not all(any(is_complete(task.stem(f, n)) for f in part_folders) for n in range(len(task.pieces)))
    ]
    if missing:
        raise BuildError(
            f"none of the folders has tasks {missing} of {len(plan.tasks)}; give all part folders, or build the others"
        )


def _refuse_mixed_encoders(part_folders: list[Path]) -> None:
    """Raise BuildError when the build of one part found the fast encoder wrong, and some part has ids of that encoder.

    Such a part must be built again with the reference encoder.
    """
    mismatch = next(filter(None, map(found_mismatch, part_folders)), None)
    for folder in part_folders if mismatch else []:
        encoders = {read_header(path.with_suffix("")).encoder for path in folder.glob("part-*.json")}
        if mismatch and mismatch.fast in encoders:
            raise BuildError(
                f"{folder.parent}: an encoder that another part found wrong encoded this part ({mismatch}); build it"
                f" again with {REFERENCE_ENV}=reference and --overwrite"
            )
