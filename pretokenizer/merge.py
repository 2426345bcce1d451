"""Building on many machines: `build --part i --num_parts n` leaves a part folder, `merge` joins them to one output.

A part folder holds `plan.json` (the whole plan), `parts/` (the files of its tasks) and `tokenizer/`, so merging needs
neither the input files nor the original tokenizer. The result has the same bytes as one run on one machine.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from pretokenizer.build import compress, fresh_folder, publish
from pretokenizer.chat.formats import CHAT_FORMATS, TEMPLATE_NAME
from pretokenizer.chat.jinja_format import read_template
from pretokenizer.config.settings import PretokenizeConfig, RunOptions
from pretokenizer.config.yaml_config import ConfigError, from_mapping
from pretokenizer.encode.encoder import REFERENCE_ENV
from pretokenizer.files.checksums import SHA256SUMS, verify_sha256sums, write_sha256sums
from pretokenizer.files.manifest import DataManifest
from pretokenizer.files.publish import naming, read_json, write_json_atomic
from pretokenizer.output.assemble import assemble, save_tokenizer
from pretokenizer.records.locate import DatasetFiles
from pretokenizer.records.reader import FileSpan
from pretokenizer.tasks.part_files import found_mismatch, is_complete, read_header
from pretokenizer.tasks.plan import Piece, Plan, Task, load_plan_tokenizer, make_plan
from pretokenizer.tasks.pool import run_tasks, start_workers
from pretokenizer.tasks.work_folder import PLAN_NAME, BuildError, refuse_finished, work_folder, work_path
from pretokenizer.tokenizer.load import load_tokenizer_folder


def build_part(config: PretokenizeConfig, options: RunOptions) -> Path:
    """Do every num_parts-th task from number `part` on; the part's folder, `<output>.parts/part-00000-of-00004`."""
    assert options.part is not None and options.num_parts is not None
    parent = config.output_folder.with_name(config.output_folder.name + ".parts")
    final = parent / f"part-{options.part:05d}-of-{options.num_parts:05d}"
    refuse_finished(final, options.overwrite)
    plan, loaded = make_plan(config), load_plan_tokenizer(config)
    work = work_path(final)
    tasks = list(plan.tasks[options.part :: options.num_parts])
    with (
        start_workers(plan, tasks, work / "parts", options, loaded) as pool,
        work_folder(work, plan, options.overwrite),
    ):
        run_tasks(plan, tasks, work / "parts", options, loaded, pool)
        output = fresh_folder(work / "output")
        save_tokenizer(output / "tokenizer", *loaded)
        write_json_atomic(output / PLAN_NAME, plan_to_json(plan), sync=False)
        (work / "parts").rename(output / "parts")
        write_sha256sums(output)
        publish(output, final)
    shutil.rmtree(work)
    return final


def merge(folders: list[Path], final: Path, options: RunOptions | None = None) -> DataManifest:
    """Join part folders into `final`. Raises BuildError naming parts that are missing or belong to another plan."""
    options = options or RunOptions()
    refuse_finished(final, options.overwrite)
    for folder in folders:
        check_part(folder)
    plan = read_plan(folders[0])
    for folder in folders[1:]:
        if read_plan(folder).fingerprint() != plan.fingerprint():
            raise BuildError(f"{folder}: a part of another build than {folders[0]} (configuration or inputs differ)")
    part_folders = [folder / "parts" for folder in folders]
    missing = [
        task.index
        for task in plan.tasks
        if not all(any(is_complete(task.stem(f, n)) for f in part_folders) for n in range(len(task.pieces)))
    ]
    if missing:
        raise BuildError(
            f"tasks {missing} of {len(plan.tasks)} are in none of the folders; give all of them, or build the rest"
        )
    _refuse_mixed_engines(part_folders)
    tokenizer = load_tokenizer_folder(folders[0] / "tokenizer")
    template = folders[0] / "tokenizer" / TEMPLATE_NAME
    chat_format = CHAT_FORMATS.get(plan.config.chat_format) or read_template(template, tokenizer)
    final.parent.mkdir(parents=True, exist_ok=True)
    output = fresh_folder(final.with_name(final.name + ".merging"))
    with naming(output):
        manifest = assemble(plan, tokenizer, chat_format, part_folders, output, final, options)
        publish(output, final)
    if plan.config.compress:
        compress(final)
    return manifest


def _refuse_mixed_engines(part_folders: list[Path]) -> None:
    """Raise BuildError where one part found the fast way wrong and another kept its ids."""
    mismatch = next(filter(None, map(found_mismatch, part_folders)), None)
    for folder in part_folders if mismatch else []:
        engine = str(mismatch).split(" gave other ids")[0]
        if any(read_header(path.with_suffix("")).engine.startswith(engine) for path in folder.glob("part-*.json")):
            raise BuildError(
                f"{folder.parent}: encoded by what another part found wrong ({mismatch}); build this part again with"
                f" {REFERENCE_ENV}=reference and --overwrite"
            )


def check_part(folder: Path) -> None:
    """Raises BuildError naming what is damaged or missing in a part folder, or that it is none."""
    if not (folder / SHA256SUMS).is_file() and not (folder / PLAN_NAME).is_file():
        raise BuildError(f"{folder / PLAN_NAME}: missing; {folder} is not a folder of `build --part`")
    problems = verify_sha256sums(folder)
    if problems:
        raise BuildError("; ".join(problems[:5]) + "; copy the folder again or build this part again")


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data; `read_plan` is its inverse."""
    return {
        "fingerprint": plan.fingerprint(),
        "config": dataclasses.asdict(plan.config),
        "datasets": [{"train": [str(p) for p in d.train], "val": [str(p) for p in d.val]} for d in plan.datasets],
        "tasks": [[[p.dataset, p.is_val, [[n, *span] for n, span in p.files]] for p in t.pieces] for t in plan.tasks],
        "inputs": plan.inputs,
    }


def read_plan(folder: Path) -> Plan:
    """The plan of a part folder. Raises BuildError naming the file."""
    path = folder / PLAN_NAME
    try:
        raw = read_json(path)
        plan = Plan(
            from_mapping(PretokenizeConfig, raw["config"], str(path)),
            tuple(DatasetFiles(tuple(map(Path, d["train"])), tuple(map(Path, d["val"]))) for d in raw["datasets"]),
            tuple(Task(index, tuple(map(_piece, pieces))) for index, pieces in enumerate(raw["tasks"])),
            tuple(map(Path, raw["inputs"])),
            raw["inputs"],
        )
    except FileNotFoundError:
        raise BuildError(f"{path}: missing; {folder} is not a folder of `build --part`") from None
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise BuildError(f"{path}: cannot read: {error}") from None
    if plan.fingerprint() != raw["fingerprint"]:
        raise BuildError(f"{path}: damaged, or written by another version of this program")
    return plan


def _piece(raw: list[Any]) -> Piece:
    dataset, is_val, files = raw
    return Piece(dataset, is_val, tuple((number, FileSpan(path, start, end)) for number, path, start, end in files))
