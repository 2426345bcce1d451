"""Do shards, model and tokenizer belong together? All that the trainer reads from the shards' manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from megatron_train.config import Data
from megatron_train.data.document_order import parse_blend, training_paths
from megatron_train.data.sft_dataset import Samples
from megatron_train.model_config import ModelConfig
from megatron_train.parallel.distributed import is_printing_rank, warn
from megatron_train.state.checkpoint_folder import TOKENIZER_DIR, CheckpointError
from megatron_train.state.train_state import TrainState
from pretokenizer.manifest import MANIFEST_NAME, DataManifest
from pretokenizer.publish import sha256_file
from pretokenizer.shard import ShardError


def load_manifest(data: Data) -> tuple[DataManifest | None, Path | None]:
    """The manifest beside the first training shard; shards of other tools have none. Raises ShardError for damage."""
    check_shards(data)
    folder = Path(parse_blend(*training_paths(data))[0][1]).parent
    if not (folder / MANIFEST_NAME).is_file():
        warn(
            f"{folder} has no {MANIFEST_NAME}: the vocabulary is not checked, rows are filled with token 0 (without "
            f"loss)"
        )
        return None, None
    return DataManifest.load(folder), folder


def check_shards(data: Data) -> None:
    """Rank 0 compares every shard that has a manifest with the sum there; all ranks raise ShardError by file name."""
    verdict: list[list[str]] = [_damaged_shards(data) if is_printing_rank() else []]
    if dist.is_initialized():
        dist.broadcast_object_list(verdict, src=0)
    if verdict[0]:
        raise ShardError("; ".join(verdict[0]) + "; copy the file again or build the data again")


def _damaged_shards(data: Data) -> list[str]:
    evaluated = [path.rpartition("=")[2] for path in (*data.valid_data_path, *data.test_data_path)]
    problems, manifests = [], {}
    for prefix in [*(prefix for _, prefix in parse_blend(*training_paths(data))), *evaluated]:
        folder = Path(prefix).parent
        if folder not in manifests:
            is_there = (folder / MANIFEST_NAME).is_file()
            manifests[folder] = DataManifest.load(folder).outputs if is_there else {}
        for name in (Path(prefix).name + end for end in ("-text.idx", "-text.bin", "-role.idx", "-role.bin")):
            record, path = manifests[folder].get(name), folder / name
            if record and path.is_file() and (path.stat().st_size, sha256_file(path)) != (record.bytes, record.sha256):
                problems.append(f"{path}: contents differ from the sum in {MANIFEST_NAME}")
    return problems


def check_vocabulary(manifest: DataManifest | None, model: ModelConfig, checkpoint: Path | None) -> None:
    """Raises CheckpointError when the data's token ids mean something else, or nothing, to the model."""
    if manifest is None:
        return
    remedy = "convert the base model with the data's tokens (from-hf --vocab_extra_ids_list) or pretokenize anew"
    if manifest.vocab_size > model.vocab_size:
        raise CheckpointError(
            f"the data has {manifest.vocab_size:,} token ids, the model {model.vocab_size:,} vocabulary rows; "
            + (remedy if checkpoint else f"set vocab_size: {manifest.vocab_size} in the model file")
        )
    spec = checkpoint / TOKENIZER_DIR / "tokenizer_spec.json" if checkpoint else None
    if spec and spec.is_file() and json.loads(spec.read_text()).get("fingerprint") != manifest.tokenizer_fingerprint:
        raise CheckpointError(f"the data was tokenized with another tokenizer than {spec.parent}: {remedy}")


def find_tokenizer(data_folder: Path | None, checkpoint: Path | None) -> Path | None:
    """The tokenizer that goes into checkpoints: the data's, else the loaded checkpoint's."""
    candidates = [folder / TOKENIZER_DIR for folder in (data_folder, checkpoint) if folder]
    return next((folder for folder in candidates if folder.is_dir()), None)


def check_same_data(state: TrainState, samples: Samples) -> TrainState:
    """Warns when a resumed run reads other shards: its position in the data then means something else."""
    found = samples.documents.fingerprint()
    if state.data_fingerprint and state.data_fingerprint != found:
        warn(
            "the training shards are not those the checkpoint was trained on; going on at the same sample number of "
            "the new order"
        )
    return replace(state, data_fingerprint=found)
