"""Read and write `plan.json`: the plan of a build, complete enough to merge parts without the input files."""

import dataclasses
from pathlib import Path
from typing import Any

from pretokenizer.config.settings import PretokenizeConfig
from pretokenizer.config.yaml_config import from_mapping
from pretokenizer.files.publish import read_json, write_json_atomic
from pretokenizer.records.locate import DatasetFiles
from pretokenizer.records.reader import FileSpan
from pretokenizer.tasks.plan import BuildError, Piece, Plan, Task

PLAN_NAME = "plan.json"


def write_plan(plan: Plan, folder: Path) -> None:
    """Write the plan to `folder/plan.json`, where `read_plan` finds it."""
    write_json_atomic(folder / PLAN_NAME, plan_to_json(plan), sync=False)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as the dicts and lists that `plan.json` stores."""
    return {
        "fingerprint": plan.fingerprint(),
        "config": dataclasses.asdict(plan.config),
        "datasets": [
            {"train": [str(p) for p in d.train], "val": [str(p) for p in d.val], "left_out": d.left_out}
            for d in plan.datasets
        ],
        "tasks": [[[p.dataset, p.is_val, [[n, *span] for n, span in p.files]] for p in t.pieces] for t in plan.tasks],
        "inputs": plan.inputs,
    }


def read_plan(folder: Path) -> Plan:
    """Return the plan in `folder/plan.json`.

    Raises BuildError when the file is missing, damaged or of another version.
    """
    path = folder / PLAN_NAME
    try:
        raw = read_json(path)
        plan = Plan(
            from_mapping(PretokenizeConfig, raw["config"], str(path)),
            tuple(_files(dataset) for dataset in raw["datasets"]),
            tuple(Task(index, tuple(map(_piece, pieces))) for index, pieces in enumerate(raw["tasks"])),
            tuple(map(Path, raw["inputs"])),
            raw["inputs"],
        )
    except FileNotFoundError:
        raise BuildError(f"{path}: missing; {folder} is not a folder of `build --part`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path}: cannot read: {error}") from None
    if plan.fingerprint() != raw["fingerprint"]:
        raise BuildError(f"{path}: damaged, or written by another version of this program; build the part again")
    return plan


def _files(raw: dict[str, Any]) -> DatasetFiles:
    return DatasetFiles(tuple(map(Path, raw["train"])), tuple(map(Path, raw["val"])), raw["left_out"])


def fingerprint_in(path: Path) -> str | None:
    """Return the plan's fingerprint that a `plan.json` file holds, or None when the file cannot be read."""
    try:
        return str(read_json(path)["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _piece(raw: list[Any]) -> Piece:
    dataset, is_val, files = raw
    return Piece(dataset, is_val, tuple((number, FileSpan(path, start, end)) for number, path, start, end in files))
