"""The packing plan on disk: one rank computes it, then every rank and every later launch of the run reads it.

    samples = planned_samples(config, num_samples)      # on all ranks; equals sft_dataset.training_samples

    CACHE/packing-<key>/  document.npy start.npy length.npy row_offsets.npy   the columns of Samples, mapped into memory
                          plan.json                                           what the plan was computed from
                          SHA256SUMS

CACHE is --data_cache_path, else `packing` in --save, else there is no cache. The key is a hash of everything that the
plan depends on, so a plan is never out of date. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from megatron_train.config.settings import TrainConfig
from megatron_train.data.document_order import parse_blend, training_paths
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.sft_dataset import EpochFacts, Samples, training_samples
from megatron_train.parallel.distributed import patient_group
from megatron_train.report.console import warn
from pretokenizer.files.checksums import verify_sha256sums, write_sha256sums
from pretokenizer.files.publish import staged_folder, write_json_atomic

PLAN_VERSION = 2
"""Version of the packing rules. Increase it when packing.py or sft_dataset.py gives other rows for equal settings."""

COLUMNS = ("document", "start", "length", "row_offsets")
FACTS = tuple(field.name for field in fields(EpochFacts))


def planned_samples(config: TrainConfig, num_samples: int) -> Samples:
    """Return the first `num_samples` rows of the training order, as training_samples does, from the cache if possible.

    The packing plan says which documents each row holds. Rank 0 reads or computes it first, then the first rank of
    every other node, because nodes may not share a disk, then all other ranks. An unusable cache causes only a warning.
    Without a cache, every rank computes the plan. All ranks call this function.
    """
    folder, data, seed = cache_folder(config), config.data, config.batch.seed
    if folder is None:
        return training_samples(data, num_samples, seed)
    documents = DocumentSet([prefix for _, prefix in parse_blend(*training_paths(data))])
    key = plan_key(config, documents, num_samples)
    samples = None
    with patient_group() as group:
        for own_turn in (dist.get_rank() == 0, os.environ.get("LOCAL_RANK", "0") == "0", True):
            if own_turn and samples is None:
                samples = _read(folder / name_of(key), key, documents)
            if own_turn and samples is None:
                samples = training_samples(data, num_samples, seed)
                _write(folder / name_of(key), key, samples)
            dist.barrier(group)
    assert samples is not None
    return samples


def cache_folder(config: TrainConfig) -> Path | None:
    """Return the folder of packing plans; None without packing, or with neither --data_cache_path nor --save."""
    if not config.data.packing:
        return None
    if config.data.data_cache_path:
        return Path(config.data.data_cache_path)
    return Path(config.checkpoint.save) / "packing" if config.checkpoint.save else None


def plan_key(config: TrainConfig, documents: DocumentSet, num_samples: int) -> dict[str, Any]:
    """Return everything that the packing plan depends on, by name: settings, and facts about the data.

    A stored plan is used only if its key is equal.
    """
    data = config.data
    return {
        "version": PLAN_VERSION,
        "documents": documents.fingerprint(),
        "prefix_sizes": np.diff(documents.first).tolist(),
        "weights": [weight for weight, _ in parse_blend(*training_paths(data))],
        "split": None if data.train_data_path else data.split,
        "num_samples": num_samples,
        "seed": config.batch.seed,
        "seq_length": data.seq_length,
        "packing_window": data.packing_window,
        "overlong": data.overlong,
        "loss": [list(data.loss_roles), data.loss_alignment, data.scalar_loss_mask],
    }


def name_of(key: dict[str, Any]) -> str:
    """Return the name of the folder of the packing plan with this key: `packing-` and a hash of the key."""
    return "packing-" + hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _read(folder: Path, key: dict[str, Any], documents: DocumentSet) -> Samples | None:
    """Return the packing plan in `folder`; None if there is none. An unusable plan causes a warning and gives None."""
    if not folder.exists():
        return None
    try:
        problems = verify_sha256sums(folder)
        if problems:
            raise ValueError("; ".join(problems))
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        if plan["key"] != key:
            raise ValueError(f"{folder / 'plan.json'} belongs to other data or settings")
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in COLUMNS}
        return Samples(documents=documents, **columns, **{name: plan[name] for name in FACTS})
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"the packing plan cannot be used and is computed again: {error}")
        return None


def _write(folder: Path, key: dict[str, Any], samples: Samples) -> None:
    """Write the packing plan to `folder`, and replace an unusable one. A failure causes only a warning."""
    # Nodes that share the file system may write at the same time, so each process has a staging folder of its own.
    staging = folder.with_name(f".{folder.name}.{socket.gethostname()}-{os.getpid()}.staging")
    try:
        with staged_folder(folder, staging=staging, replace=True):
            for name in COLUMNS:
                np.save(staging / f"{name}.npy", getattr(samples, name))
            write_json_atomic(staging / "plan.json", {"key": key} | {name: getattr(samples, name) for name in FACTS})
            write_sha256sums(staging)
    except OSError as error:
        warn(f"the packing plan could not be stored: {error}")
