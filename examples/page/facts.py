"""Facts of a model for its page, read from the folders that the pipeline wrote.

stage1 = read_stage(Path("output/demo/stage1"))
stage1.losses[-1], stage1.data[0].tokens
"""

from __future__ import annotations

import json
from collections import Counter
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
    """Statistics of one data set in one split (train or val) of a folder of shards."""

    name: str
    documents: int
    """Number of documents in the shards."""
    tokens: int
    """Number of tokens of these documents."""
    loss_tokens: int
    """Number of their tokens that get loss."""
    left_out: dict[str, int]
    """Reason -> number of documents or records that are not in the shards."""


@dataclass(frozen=True)
class Records:
    """Numbers of the input records of one data set by outcome."""

    name: str
    read: int
    """Number of records read."""
    train: int
    """Number of records with a document in train."""
    val: int
    """Number of records with a document in val."""
    left_out: dict[str, int]
    """Reason -> number of valid records without a document in the shards."""
    bad: dict[str, int]
    """Reason -> number of records that could not be used."""


@dataclass(frozen=True)
class Shards:
    """Statistics and configuration of one folder of shards."""

    folder: Path
    splits: dict[str, list[DataSet]]
    """`train` or `val` -> its data sets."""
    records: list[Records]
    """Outcomes of the input records, one entry for each data set."""
    section: dict[str, Any]
    """The section of the pretokenizer that the shards were built from, without unset keys. {} when it is not known."""
    role_tokens: dict[str, int]
    """Role -> number of its tokens in the train split."""
    bounds: list[int]
    """Bounds of the bins of `counts`, in tokens: bin i is from bounds[i] to bounds[i + 1] - 1."""
    counts: list[int]
    """Number of documents of the train split in each bin of length."""


@dataclass(frozen=True)
class EvaluationRow:
    """The result of one evaluation of a training run on one set of validation or test data."""

    iteration: int
    """Iteration after which the run was evaluated."""
    name: str
    """Name of the set, with `(test)` after the name of a test set."""
    loss: float | None
    """Loss per target token, or None when it is not finite."""
    ppl: float | None
    """Perplexity, or None when it is not finite."""
    token_accuracy: float | None


@dataclass(frozen=True)
class Sum:
    """One file or folder of a model's lineage, with its checksum."""

    what: str
    """Run and kind of the file or folder, such as `stage1, shards`."""
    path: str
    sha256: str
    """SHA-256 of the file, or of the list of sums in the folder. Empty where nothing lists the sums."""


@dataclass(frozen=True)
class Stage:
    """The facts of one training run that a page shows."""

    name: str
    folder: Path
    iterations: list[dict[str, Any]]
    """Records of metrics.jsonl, one for each iteration with a finite loss."""
    evaluations: list[EvaluationRow]
    resumptions: list[int]
    """Iterations after which a later launch continued the run."""
    settings: dict[str, Any]
    """Training settings that differ from the trainer's defaults."""
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
    """Everything that the page about a model shows."""

    title: str
    stages: list[Stage]
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Sampling reports, one per model."""
    evaluation: Evaluation | None = None
    folder: Path | None = None
    """Exported folder."""
    commands: list[str] = field(default_factory=list)


def read_stage(folder: Path) -> Stage:
    """Read the facts of the training run whose --save folder is `folder`.

    Raises ValueError when the folder holds no metrics.jsonl, and CheckpointError when it holds no checkpoint.
    """
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
    """Return the evaluations in the records of a metrics.jsonl, on validation and on test data."""
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
    """Return the iterations after which a later launch resumed the run in `folder`, from its launches.jsonl.

    Return [] for a run of one launch.
    """
    path = folder / "launches.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return sorted({json.loads(line)["iteration"] for line in lines} - {0})


def sums_of(name: str, checkpoint: Path, load: str | None, shards: list[Shards]) -> list[Sum]:
    """Return the lineage of the run `name` with checksums: its start, shards, configurations and checkpoint.

    `load` is the checkpoint that the run started from, or None for random weights.
    """
    found = [Sum(f"{name}, starts from", load or "random weights", "")]
    found += [_sum(f"{name}, shards", own.folder / "manifest.json", own.folder) for own in shards]
    found += [_sum(f"{name}, {kind}", checkpoint / kind) for kind in (TRAIN_CONFIG, MODEL_CONFIG)]
    return [*found, _sum(f"{name}, checkpoint", checkpoint / SHA256SUMS, checkpoint)]


def _sum(what: str, path: Path, folder: Path | None = None) -> Sum:
    return Sum(what, str(folder or path), sha256_file(path) if path.is_file() else "")


def shards_of(settings: dict[str, Any]) -> list[Shards]:
    """Return the statistics of the folders of training shards that a run's `settings` name, if they still exist."""
    words = [str(word) for key in ("train_data_path", "data_path") for word in settings.get(key) or []]
    folders = dict.fromkeys(Path(word).parent for word in words)
    return [read_shards(folder) for folder in folders if (folder / "stats.json").is_file()]


def read_shards(folder: Path) -> Shards:
    """Read stats.json of one folder of shards, and manifest.json if it exists."""
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
    """Return the name under which the page shows the pretokenizer section of a folder of shards."""
    return str(shards.section.get("filename_prefix") or shards.folder.name)


def _data_set(entry: dict[str, Any]) -> DataSet:
    left_out = Counter(entry.get("skipped", {})) + Counter(entry.get("dropped", {}))
    return DataSet(entry["name"], entry["accepted"], entry["tokens"], entry["loss_tokens"], dict(left_out))
