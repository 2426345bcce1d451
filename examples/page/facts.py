"""Facts of a model for its page, read from the folders that the pipeline wrote.

stage1 = read_stage(Path("output/demo/stage1"))
stage1.losses[-1], stage1.data[0].tokens
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_train.checkpoint.folder import TRAIN_CONFIG, find_checkpoint
from megatron_train.config.changed import changed_settings
from pretokenizer.config.yaml_config import load_yaml


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
class Shards:
    """One folder of shards."""

    folder: Path
    splits: dict[str, list[DataSet]]
    role_tokens: dict[str, int]
    """Role -> tokens of the train split."""
    bounds: list[int]
    """Upper bounds of the bins of `counts`, in tokens."""
    counts: list[int]
    """Documents of the train split by length."""


@dataclass(frozen=True)
class Stage:
    """One training run."""

    name: str
    folder: Path
    iterations: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    settings: dict[str, Any]
    """Settings that differ from the defaults."""
    shards: Shards | None
    checkpoint: str
    """Name of the newest checkpoint folder."""
    checksum: str
    """SHA-256 of the checkpoint's SHA256SUMS."""

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
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Task -> metrics."""
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
    sums = checkpoint / "SHA256SUMS"
    return Stage(
        name=folder.name,
        folder=folder,
        iterations=[record for record in records if record.get("lm_loss") is not None],
        evaluations=[record for record in records if "eval" in record],
        settings=changed_settings(settings),
        shards=shards_of(settings),
        checkpoint=checkpoint.name,
        checksum=hashlib.sha256(sums.read_bytes()).hexdigest() if sums.is_file() else "",
    )


def shards_of(settings: dict[str, Any]) -> Shards | None:
    """Return the statistics of the first training shard, or None where its folder is gone."""
    prefixes = settings.get("train_data_path") or settings.get("data_path") or []
    folders = [Path(prefix).parent for prefix in prefixes if (Path(prefix).parent / "stats.json").is_file()]
    if not folders:
        return None
    stats = json.loads((folders[0] / "stats.json").read_text(encoding="utf-8"))
    lengths = stats["lengths"]["train"]
    return Shards(
        folder=folders[0],
        splits={split: [_data_set(entry) for entry in entries] for split, entries in stats["splits"].items()},
        role_tokens=stats["totals"]["train"]["role_tokens"],
        bounds=lengths["bounds"],
        counts=lengths["counts"],
    )


def _data_set(entry: dict[str, Any]) -> DataSet:
    left_out = {**entry.get("skipped", {}), **entry.get("dropped", {})}
    return DataSet(entry["name"], entry["accepted"], entry["tokens"], entry["loss_tokens"], left_out)
