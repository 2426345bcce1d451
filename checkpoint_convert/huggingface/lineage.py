"""Record where imported weights come from, and find the ancestors of a model through its training runs.

    record_source(staging, Path("Llama-2-70b-hf"))                 # converted_from.json in CKPT_DIR/release
    lineage(Path("checkpoints/stage2/iter_0000346"))               # ["stage1", "base", "meta-llama/Llama-2-70b-hf"]

The name on the Hugging Face hub comes from the folder's path in the hub's cache, else from its config.json.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from checkpoint_convert.families.family import words
from megatron_train.checkpoint.folder import (
    RELEASE,
    TRAIN_CONFIG,
    CheckpointError,
    find_checkpoint,
    folder_name,
    list_iterations,
)
from megatron_train.checkpoint.recognize import HUB_NAME

CONVERTED_FROM = "converted_from.json"
RECEIPT = "receipt.json"
LOCAL_FOLDERS = words("""
    output outputs out result results run runs log logs save saves saved checkpoint checkpoints ckpt ckpts model models
    weights experiment experiments exp data tmp home mnt root scratch workspace content
    """)
"""Common first parts of local paths, such as `outputs/my-run`. They are not organizations on the hub."""
TRAINER_FOLDER = re.compile(r"/(checkpoint-\d+|iter_\d+|release)$")


def record_source(release: Path, origin: Path) -> None:
    """Write converted_from.json into `release`, the folder of the imported weights. It names the imported model.

    `origin` is the folder from which the weights were imported. If to-hf wrote it, its receipt is copied too, because
    the receipt names the model's ancestors.
    """
    receipt = _read(origin / RECEIPT)
    record: dict[str, Any] = {"name": source_name(origin)}
    if isinstance(receipt.get("lineage"), list):
        record |= {"ancestors": receipt["lineage"], "folder": str(origin), "receipt": receipt}
    (release / CONVERTED_FROM).write_text(json.dumps(record) + "\n", encoding="utf-8")


def imported_receipt(release: Path) -> tuple[str, dict[str, Any]]:
    """Return the path and the receipt of the exported folder from which `release` was imported.

    Return ("", {}) for weights from elsewhere.
    """
    record = _read(release / CONVERTED_FROM)
    return record.get("folder", ""), record.get("receipt", {})


def source_name(folder: Path) -> str:
    """Return the name of the model in a folder: `org/name` if it comes from the hub, else the folder's name."""
    for part in reversed(folder.resolve().parts):
        match = re.fullmatch(r"models--(.+?)--(.+)", part)
        if match:
            return f"{match[1]}/{match[2]}"
    name = _read(folder / "config.json").get("_name_or_path")
    return name if isinstance(name, str) and is_hub_name(name) else folder.resolve().name


def is_hub_name(name: str) -> bool:
    """Return whether a name can be a model on the hub. Names such as `outputs/my-run` are local folders instead."""
    is_name = HUB_NAME.fullmatch(name) is not None and not name.startswith(".")
    return is_name and name.partition("/")[0].lower() not in LOCAL_FOLDERS and not TRAINER_FOLDER.search(name)


def lineage(checkpoint: Path) -> list[str]:
    """Return the names of the ancestors of a checkpoint, nearest first: earlier training runs, then imported models.

    Return [] for a run from random weights. If a folder no longer exists, its name is the last one.
    """
    names: list[str] = []
    seen: set[Path] = set()
    found: Path | None = checkpoint
    while found is not None and found.resolve() not in seen:
        seen.add(found.resolve())
        record = _read(found / CONVERTED_FROM)
        source = record.get("name")
        loaded = source or training_settings(found).get("load")
        if not loaded:
            break
        if not source and Path(loaded).resolve() == found.resolve().parent:
            found = _before(found)  # the run resumed from its own checkpoint, which is not an ancestor
            continue
        names.append(str(source or Path(loaded).name))
        if source:
            names += map(str, record.get("ancestors", []))
            break
        try:
            found = find_checkpoint(loaded)
        except CheckpointError:
            break
    return names


def ancestors(checkpoint: Path) -> list[Path]:
    """Return a checkpoint, and the checkpoints from which its training runs started, nearest first.

    Earlier checkpoints of the same run are left out. The list ends at a folder that no longer exists.
    """
    found, seen, current = [checkpoint], {checkpoint.resolve()}, checkpoint
    while loaded := training_settings(current).get("load"):
        is_own = Path(loaded).resolve() == current.resolve().parent
        try:
            before = _before(current) if is_own else find_checkpoint(loaded)
        except CheckpointError:
            before = None
        if before is None or before.resolve() in seen:
            break
        seen.add(before.resolve())
        if not is_own or before.name == RELEASE:
            found.append(before)
        current = before
    return found


def _before(checkpoint: Path) -> Path | None:
    """Return the newest checkpoint in the same folder that is older than `checkpoint`, else its release/, else None."""
    if checkpoint.name == RELEASE:
        return None
    folder = checkpoint.parent
    names = [folder_name(i) for i in list_iterations(folder)]
    earlier = names[: names.index(checkpoint.name)] if checkpoint.name in names else []
    before = folder / (earlier[-1] if earlier else RELEASE)
    return before if before.is_dir() else None


def training_settings(checkpoint: Path) -> dict[str, Any]:
    """Return the settings in train_config.yaml of the run that saved the checkpoint, without unset ones.

    Return {} for imported weights, which no run saved.
    """
    path = checkpoint / TRAIN_CONFIG
    loaded = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    settings = loaded if isinstance(loaded, dict) else {}
    return {key: value for key, value in settings.items() if value is not None and value != []}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
