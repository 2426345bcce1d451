"""Facts of a model for its page, read from the folders that the pipeline wrote.

stage1 = read_stage(Path("output/demo/stage1"))
stage1.losses[-1], stage1.data[0].tokens
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.evaluation.results import Evaluation
from megatron_train.checkpoint.folder import MODEL_CONFIG, TRAIN_CONFIG, TRAIN_STATE, find_checkpoint
from megatron_train.config.changed import changed_settings
from pretokenizer.config.yaml_config import load_yaml
from pretokenizer.files.checksums import SHA256SUMS, sha256_file
from pretokenizer.files.publish import read_json


@dataclass(frozen=True)
class DataSet:
    """One data set of a split."""

    name: str
    documents: int
    tokens: int
    loss_tokens: int
    left_out: dict[str, int]
    """Reason -> documents."""


@dataclass(frozen=True)
class Records:
    """The records of one data set by outcome."""

    name: str
    read: int
    train: int
    val: int
    left_out: dict[str, int]
    """Reason -> valid records without a document in the shards."""
    bad: dict[str, int]
    """Reason -> records that could not be read."""


@dataclass(frozen=True)
class Shards:
    """One folder of shards."""

    folder: Path
    splits: dict[str, list[DataSet]]
    records: list[Records]
    section: dict[str, Any]
    """The section of the pretokenizer that the shards were built from, without unset keys. {} when it is not known."""
    role_tokens: dict[str, int]
    """Role -> tokens of the train split."""
    bounds: list[int]
    """Upper bounds of the bins of `counts`, in tokens."""
    counts: list[int]
    """Documents of the train split by length."""


@dataclass(frozen=True)
class EvaluationRow:
    """The result of one evaluation on one set."""

    iteration: int
    name: str
    """Name of the set, with `(test)` after the name of a test set."""
    loss: float | None
    """Loss per target token, or None when it is not finite."""
    ppl: float | None
    token_accuracy: float | None


@dataclass(frozen=True)
class Sum:
    """One file or folder of the lineage."""

    what: str
    path: str
    sha256: str
    """SHA-256 of the file, or of the list of sums in the folder. Empty where nothing lists the sums."""


@dataclass(frozen=True)
class Stage:
    """One training run."""

    name: str
    folder: Path
    iterations: list[dict[str, Any]]
    """Records of metrics.jsonl with a finite loss."""
    evaluations: list[EvaluationRow]
    resumptions: list[int]
    """Iterations after which a later launch continued the run."""
    settings: dict[str, Any]
    """Settings that differ from the defaults."""
    shards: list[Shards]
    """Folders of the training shards that still exist."""
    checkpoint: str
    """Name of the newest checkpoint folder."""
    world_size: int
    """Number of processes."""
    sums: list[Sum]

    def series(self, key: str) -> list[float]:
        return [record[key] for record in self.iterations if record.get(key) is not None]

    @property
    def num_tokens(self) -> int:
        return int(sum(self.series("num_tokens")))


@dataclass(frozen=True)
class Facts:
    """Everything that a page shows."""

    title: str
    stages: list[Stage]
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Sampling reports, one per model."""
    evaluation: Evaluation | None = None
    folder: Path | None = None
    commands: list[str] = field(default_factory=list)


def read_stage(folder: Path) -> Stage:
    """Read one run. Raises ValueError when the folder holds no metrics, CheckpointError when it holds no checkpoint."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise ValueError(f"{metrics}: no such file; name the --save folder of a training run")
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    checkpoint = find_checkpoint(str(folder))
    settings = load_yaml(checkpoint / TRAIN_CONFIG)
    shards = shards_of(settings)
    return Stage(
        name=folder.name,
        folder=folder,
        iterations=[record for record in records if record.get("lm_loss") is not None],
        evaluations=evaluations_in(records),
        resumptions=resumptions_of(folder),
        settings=changed_settings(settings),
        shards=shards,
        checkpoint=checkpoint.name,
        world_size=read_json(checkpoint / TRAIN_STATE).get("world_size") or 1,
        sums=sums_of(folder.name, checkpoint, settings.get("load"), shards),
    )


def evaluations_in(records: list[dict[str, Any]]) -> list[EvaluationRow]:
    """Return the evaluations of a metrics.jsonl, on validation and on test data."""
    return [
        EvaluationRow(
            record["iteration"],
            name if kind == "eval" else f"{name} (test)",
            result["loss"],
            result["ppl"],
            result["token_accuracy"],
        )
        for record in records
        for kind in ("eval", "test")
        for name, result in record.get(kind, {}).items()
    ]


def resumptions_of(folder: Path) -> list[int]:
    """Return the iterations after which launches continued a run, from its launches.jsonl."""
    path = folder / "launches.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return sorted({json.loads(line)["iteration"] for line in lines} - {0})


def sums_of(name: str, checkpoint: Path, load: str | None, shards: list[Shards]) -> list[Sum]:
    """Return the lineage of one run: its start, its shards, its configurations and its checkpoint."""
    found = [Sum(f"{name}, starts from", load or "random weights", "")]
    found += [_sum(f"{name}, shards", own.folder / "manifest.json", own.folder) for own in shards]
    found += [_sum(f"{name}, {kind}", checkpoint / kind) for kind in (TRAIN_CONFIG, MODEL_CONFIG)]
    return [*found, _sum(f"{name}, checkpoint", checkpoint / SHA256SUMS, checkpoint)]


def _sum(what: str, path: Path, folder: Path | None = None) -> Sum:
    return Sum(what, str(folder or path), sha256_file(path) if path.is_file() else "")


def shards_of(settings: dict[str, Any]) -> list[Shards]:
    """Return the statistics of the folders of training shards that still exist."""
    words = [str(word) for key in ("train_data_path", "data_path") for word in settings.get(key) or []]
    folders = dict.fromkeys(Path(word).parent for word in words)
    return [read_shards(folder) for folder in folders if (folder / "stats.json").is_file()]


def read_shards(folder: Path) -> Shards:
    """Read the statistics of one folder of shards."""
    stats = read_json(folder / "stats.json")
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
    lengths = stats["lengths"]["train"]
    return Shards(
        folder=folder,
        section={key: value for key, value in manifest.get("section", {}).items() if value not in (None, [], {})},
        splits={split: [_data_set(entry) for entry in entries] for split, entries in stats["splits"].items()},
        records=[
            Records(own["name"], own["records"], own["train"], own["val"], own["left_out"], own["bad"])
            for own in stats.get("records", [])
        ],
        role_tokens=stats["totals"]["train"]["role_tokens"],
        bounds=lengths["bounds"],
        counts=lengths["counts"],
    )


def section_name(shards: Shards) -> str:
    """Return the name under which the page shows the section of a folder of shards."""
    return str(shards.section.get("filename_prefix") or shards.folder.name)


def _data_set(entry: dict[str, Any]) -> DataSet:
    left_out = {**entry.get("skipped", {}), **entry.get("dropped", {})}
    return DataSet(entry["name"], entry["accepted"], entry["tokens"], entry["loss_tokens"], left_out)
