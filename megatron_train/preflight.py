"""Check before the first iteration that shards, model, tokenizer and checkpoint belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from megatron_train.checkpoint.folder import SOURCE_TOKENIZER_DIR, TOKENIZER_DIR, CheckpointError
from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import Data, TrainConfig
from megatron_train.data.document_order import parse_blend, training_paths
from megatron_train.data.sft_dataset import Samples
from megatron_train.parallel.distributed import patient_group
from megatron_train.report.console import say, warn
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.checksums import sha256_file
from pretokenizer.files.manifest import MANIFEST_NAME, DataManifest
from pretokenizer.files.shard import ShardError

LEAST_SHARE_WITH_TARGET = 0.05
"""A run starts only if a larger share of its training documents has a target token."""


def shard_prefixes(data: Data) -> list[str]:
    """Return the path prefix of every shard that the data settings name, without duplicates, training shards first."""
    training = [prefix for _, prefix in parse_blend(*training_paths(data))]
    named = [path.rpartition("=")[2] for path in (*data.valid_data_path, *data.test_data_path)]
    return list(dict.fromkeys([*training, *named]))


def load_manifest(data: Data) -> tuple[DataManifest | None, Path | None]:
    """Return the data manifest beside the first shard of the settings, and the folder of both.

    The first shard is a training shard unless none is named. Returns (None, None) with a warning when the folder has no
    manifest, as with shards of other tools. Raises CheckpointError when the manifests of the shards name different
    tokenizers.
    """
    first, *others = (Path(prefix).parent for prefix in shard_prefixes(data))
    if not (first / MANIFEST_NAME).is_file():
        warn(
            f"{first} has no {MANIFEST_NAME}: the vocabulary is not checked, and rows are padded with token 0 (without "
            f"loss)"
        )
        return None, None
    manifest = DataManifest.load(first)
    for folder in dict.fromkeys(others):
        if not (folder / MANIFEST_NAME).is_file():
            warn(f"{folder} has no {MANIFEST_NAME}: its vocabulary is not checked")
        elif DataManifest.load(folder).tokenizer_fingerprint != manifest.tokenizer_fingerprint:
            raise CheckpointError(
                f"{folder} and {first} were tokenized with different tokenizers; pretokenize both with the same one"
            )
    return manifest, first


def check_shards(data: Data) -> None:
    """Compare the files of every shard that has a manifest with the SHA-256 checksums in the manifest.

    Rank 0 reads the files. Raises ShardError on all ranks; the message names each damaged file.
    """
    verdict: list[list[str]] = [[]]
    with patient_group() as group:
        if dist.get_rank() == 0:
            verdict = [[problem for prefix in shard_prefixes(data) for problem in _damaged_files(Path(prefix))]]
        dist.broadcast_object_list(verdict, src=0, group=group)
    if verdict[0]:
        raise ShardError("; ".join(verdict[0]) + "; copy the file again or build the data again")


def _damaged_files(prefix: Path) -> list[str]:
    """Return one message for each file of the shard `prefix` whose size or checksum differs from its manifest."""
    folder, problems = prefix.parent, []
    recorded = DataManifest.load(folder).outputs if (folder / MANIFEST_NAME).is_file() else {}
    for name in (prefix.name + end for end in ("-text.idx", "-text.bin", "-role.idx", "-role.bin")):
        record, path = recorded.get(name), folder / name
        if record and path.is_file() and (path.stat().st_size, sha256_file(path)) != (record.bytes, record.sha256):
            problems.append(f"{path}: contents differ from the checksum in {MANIFEST_NAME}")
    return problems


def check_vocabulary(manifest: DataManifest | None, model: ModelConfig, checkpoint: Path | None) -> None:
    """Raise CheckpointError when the vocabulary of the data does not fit the model.

    The data must not have more token ids than the model has vocabulary rows, and a checkpoint that holds a tokenizer
    must hold that of the data. Without a manifest, nothing is checked.
    """
    if manifest is None:
        return
    remedy = "convert the base model with the data's tokens (from-hf --vocab_extra_ids_list) or pretokenize again"
    if manifest.vocab_size > model.vocab_size:
        raise CheckpointError(
            f"the data has {manifest.vocab_size:,} token ids, the model {model.vocab_size:,} vocabulary rows; "
            + (remedy if checkpoint else f"set vocab_size: {manifest.vocab_size} in the model file")
        )
    spec = checkpoint / TOKENIZER_DIR / "tokenizer_spec.json" if checkpoint else None
    if spec and spec.is_file() and json.loads(spec.read_text()).get("fingerprint") != manifest.tokenizer_fingerprint:
        raise CheckpointError(f"the data was tokenized with another tokenizer than {spec.parent}: {remedy}")


def find_tokenizer(data_folder: Path | None, checkpoint: Path | None) -> dict[str, Path]:
    """Return the tokenizer folders to copy into every saved checkpoint, by their subfolder in the checkpoint.

    The tokenizer is that of the data; if the data has none, that of the starting checkpoint. The tokenizer files of the
    original Hugging Face model always come from the starting checkpoint, because the data does not have them.
    """
    candidates = [folder / TOKENIZER_DIR for folder in (data_folder, checkpoint) if folder]
    found = {TOKENIZER_DIR: next((folder for folder in candidates if folder.is_dir()), None)}
    if checkpoint:
        found[SOURCE_TOKENIZER_DIR] = checkpoint / SOURCE_TOKENIZER_DIR
    return {name: folder for name, folder in found.items() if folder and folder.is_dir()}


def check_same_data(state: TrainState, samples: Samples) -> TrainState:
    """Return `state` with the fingerprint of this run's training shards. Warns when a resumed run has other shards."""
    found = samples.documents.fingerprint()
    if state.data_fingerprint and state.data_fingerprint != found:
        warn(
            "the training shards differ from those of the checkpoint; the run resumes at the same sample number, which "
            "is another document"
        )
    return replace(state, data_fingerprint=found)


def check_targets(data: Data, samples: Samples) -> None:
    """Raise ConfigError when at most 5 % of the training documents (LEAST_SHARE_WITH_TARGET) have a target token.

    Such a run would learn next to nothing. Its usual causes are a short seq_length, which cuts answers off, and roles
    that match nothing. Documents that `--overlong drop` leaves out do not count.
    """
    trained_on = samples.documents_per_epoch - (samples.num_overlong if data.overlong == "drop" else 0)
    found = trained_on - samples.num_without_target
    if found <= LEAST_SHARE_WITH_TARGET * trained_on:
        share, verb = (f"only {found:,}", "have") if found > 0 else ("none", "has")
        cause = f" and {samples.num_overlong:,} documents are longer" if samples.num_overlong else ""
        raise ConfigError(
            f"{share} of the {trained_on:,} training documents {verb} a token of loss_roles "
            f"({', '.join(data.loss_roles)}) within seq_length {data.seq_length}{cause}, so there is next to nothing "
            "to learn; give a larger --seq_length, --overlong split to train on every part of a document, or other "
            "--loss_roles"
        )


def check_last_turns(data: Data, sets: list[Samples]) -> None:
    """Raise ConfigError when --last_turn_only is combined with documents that are cut because they exceed seq_length.

    The last turn in a piece of a document need not be the last turn of the document.
    """
    num_overlong = sum(samples.num_overlong for samples in sets)
    if data.last_turn_only and num_overlong and data.overlong != "drop":
        raise ConfigError(
            f"last_turn_only: {num_overlong:,} documents exceed seq_length {data.seq_length}, and with --overlong "
            f"{data.overlong} a piece may end before the last turn; give --overlong drop, or a larger seq_length"
        )


def is_nothing_left(config: TrainConfig, start: Start | None, state: TrainState) -> bool:
    """Return whether the run in --save has already reached --train_iters, and if so, print that it has.

    Raises CheckpointError when the checkpoint that has reached --train_iters comes from --load and not from --save,
    because the user then expects more training.
    """
    settings, iterations = config.checkpoint, config.batch.train_iters
    if start is None or state.iteration < iterations:
        return False
    found = f"{start.folder} has reached iteration {state.iteration} of --train_iters {iterations}"
    if settings.save and start.folder.parent.resolve() == Path(settings.save).resolve():
        say(f"{found}: nothing is left to train")
        return True
    raise CheckpointError(
        f"{found}, so nothing is left to train"
        + (f" and --save {settings.save} would stay empty" if settings.save else "")
        + ": add --finetune to start a new run from its weights, give a larger --train_iters to train longer, or run "
        "`megatron-train evaluate`"
    )
