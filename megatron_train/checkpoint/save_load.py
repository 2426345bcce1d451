"""Save and load checkpoints in megatron-core's torch_dist format. checkpoint/folder.py describes the folder.

A checkpoint does not depend on the parallel layout of the run that wrote it. A run with any sizes of TP, PP, VPP and DP
can load it, optimizer state included.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from megatron_train.checkpoint.config_diff import ORDER_OF_SAMPLES, differences, table
from megatron_train.checkpoint.folder import (
    MODEL_CONFIG,
    TRAIN_CONFIG,
    TRAIN_STATE,
    CheckpointError,
    folder_name,
    remove_stale_staging,
    staging_folder,
)
from megatron_train.checkpoint.optimizer_state import (
    STATE_KEYS,
    merge_without_copy,
    optimizer_settings,
    sharded_optimizer_state,
    take_pieces,
    tensors_to_load,
)
from megatron_train.checkpoint.piece_exchange import PieceExchange, sources_of
from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.train_state import TrainState, load_rng, save_rng
from megatron_train.checkpoint.write import TensorPlan, plan_tensors, write_and_publish
from megatron_train.config.flags import config_to_yaml
from megatron_train.config.megatron_args import common_state
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.norm_names import module_name, uses_module_names
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.optim.optimizer import gather_weights, set_adam, set_learning_rates, unwrap
from megatron_train.report.console import say, warn


def load_checkpoint(
    start: Start | None, config: TrainConfig, chunks: list[Any], optimizer: Any, layout: ParallelLayout
) -> TrainState:
    """Load the weights into `chunks` and, on resume, optimizer state and random states. Return the run's progress.

    --no_load_optim and --no_load_rng leave out the two states. Random states of another layout are not loaded. Warn of
    settings that differ from the checkpoint's. Without a `start`, the weights stay random. Raises CheckpointError that
    names what is damaged or missing.
    """
    if start is None:
        say("starting from random weights")
        return TrainState()
    folder, resume = start.folder, start.resume
    settings = config.checkpoint
    if resume and not (folder / TRAIN_STATE).is_file():
        raise CheckpointError(f"{folder}: holds weights only, so no run can resume; add --finetune")
    state = start.state()
    ranks = (state.world_size, layout.world_size)
    different = differences(config, folder, ranks) if resume or settings.use_checkpoint_args else []
    if different:
        warn(f"settings that differ from {folder}:\n{table(different)}")
    reordering = sorted({row.setting for row in different} & ORDER_OF_SAMPLES) if resume else []
    if reordering:
        warn(
            f"{', '.join(reordering)}: these settings decide which documents a sample holds. The run resumes after "
            f"{state.consumed_train_samples:,} samples of the new order, so it repeats some documents and leaves out "
            "others"
        )
    with_optimizer = resume and not settings.no_load_optim
    load_weights(folder, chunks, optimizer if with_optimizer else None)
    if with_optimizer:
        set_adam(optimizer, config.optimizer)
    else:
        optimizer.reload_model_params()
    if not resume:
        say(f"loaded weights from {folder}")
        return state
    if not settings.no_load_rng and not load_rng(folder, layout):
        warn(f"another parallel layout saved {folder}, so the random states for dropout are new")
    say(f"resumed from {folder} at iteration {state.iteration}")
    return state


def load_weights(folder: Path, chunks: list[Any], optimizer: Any = None) -> None:
    """Load the weights of a checkpoint folder into `chunks` and, if `optimizer` is given, its state into the optimizer.

    The caller must have checked the folder with check_folder. Raises CheckpointError when the folder lacks a tensor or
    a shape differs.
    """
    state_dict = sharded_state_dict(chunks)
    for key in _model_keys(chunks):  # no layer has such state on the CPU, and old checkpoints lack it
        state_dict[key] = {name: value for name, value in state_dict[key].items() if not name.endswith("_extra_state")}
    if optimizer is not None:
        _create_moments(optimizer)
        state_dict["optimizer"] = optimizer_settings(optimizer)
    loaded = _load(folder, state_dict)
    for key, chunk in zip(_model_keys(chunks), chunks, strict=True):
        missing = [name for name in _load_chunk(unwrap(chunk), loaded[key]) if not name.endswith("_extra_state")]
        if missing:
            raise CheckpointError(f"{folder}: lacks tensors of this model: {', '.join(missing)}; check --model")
    if optimizer is None:
        return
    set_learning_rates(loaded["optimizer"], optimizer)
    optimizer.load_state_dict(loaded["optimizer"])
    for state_key in STATE_KEYS:
        tensors = tensors_to_load(optimizer, sharded_state_dict(chunks), state_key)
        take_pieces(optimizer, state_key, _load(folder, {"tensors": tensors})["tensors"])


def _load(folder: Path, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Load the sharded tensors of `state_dict` from `folder`, into their own memory, and return the dictionary.

    All ranks call this function. Raises CheckpointError when the folder lacks a tensor or a shape differs.
    """
    for value in nested_values(state_dict):
        if isinstance(value, ShardedTensorFactory):
            merge_without_copy(value)
    try:
        _use_names_on_disk(folder, state_dict)
        with torch.no_grad():
            # Each rank loads different parts of the optimizer, so the parts of one rank are not complete.
            loaded: dict[str, Any] = dist_checkpointing.load(state_dict, str(folder), validate_access_integrity=False)
    except (dist_checkpointing.core.CheckpointingException, CheckpointException) as error:
        raise CheckpointError(f"{folder}: does not fit this model: {str(error).strip().splitlines()[-1]}") from error
    return loaded


def _use_names_on_disk(folder: Path, state_dict: dict[str, Any]) -> None:
    """Rename the norm layers in `state_dict` if the folder is an old checkpoint that stores them under module names."""
    if uses_module_names(dist_checkpointing.load_tensors_metadata(str(folder))):
        for value in nested_values(state_dict):
            if isinstance(value, ShardedTensor | ShardedTensorFactory):
                value.key = module_name(value.key)


def _load_chunk(model: Any, tensors: dict[str, Any]) -> list[str]:
    """Load `tensors` into the model, and return the names of the model's tensors that are missing there."""
    return list(model.load_state_dict(tensors, strict=False).missing_keys)


class Contents(NamedTuple):
    """The settings, progress, model, optimizer and tokenizer folders that a checkpoint is made from."""

    config: TrainConfig
    model_config: ModelConfig
    state: TrainState
    chunks: list[Any]
    optimizer: Any
    """The optimizer; None = a checkpoint without optimizer state."""
    layout: ParallelLayout
    tokenizer_dirs: Mapping[str, Path] = MappingProxyType({})
    """Subfolder of the checkpoint -> tokenizer folder that is copied there."""

    @property
    def root(self) -> Path:
        """The folder that holds all checkpoints of the run."""
        return Path(self.config.checkpoint.save or "")


def save_checkpoint(contents: Contents, group: Any = None) -> Path:
    """Save a complete checkpoint, name it in the tracker file as the newest, and return its folder.

    All ranks call this function. The folder gets its final name only when it is complete. The ranks use the process
    group `group`, by default that of all ranks, to report their files to one another. Raises CheckpointError that names
    the folder; older checkpoints are then unchanged.
    """
    plan = stage_checkpoint(contents, keep_copies=False)
    state, limit = contents.state, contents.config.checkpoint.save_total_limit
    write_and_publish(plan, contents.root, state.iteration, state.best_iteration, limit, group)
    folder = contents.root / folder_name(state.iteration)
    say(f"saved {folder}")
    return folder


def stage_checkpoint(contents: Contents, keep_copies: bool) -> TensorPlan:
    """Write everything but the tensors into the staging folder, and return a plan for writing the tensors.

    With `keep_copies`, the plan has its own copies of the tensors, so that training may continue before they are
    written. All ranks call this function. Raises CheckpointError that names the folder.
    """
    config, model_config, state, chunks, optimizer, layout, tokenizer_dirs = contents
    root, staging = contents.root, staging_folder(contents.root, state.iteration)
    try:
        if dist.get_rank() == 0:
            root.mkdir(parents=True, exist_ok=True)
            remove_stale_staging(root)
            staging.mkdir()
        dist.barrier()
        gather_weights(chunks, config)
        state_dict = sharded_state_dict(chunks, optimizer)
        state_dict |= common_state(model_config, state.iteration, layout)
        connect = None
        if optimizer is not None:
            connect = partial(PieceExchange, optimizer, sources_of(state_dict["optimizer"]))
        plan = plan_tensors(state_dict, staging, keep_copies, connect)
        save_rng(staging, layout)
        if dist.get_rank() == 0:
            model_config.save(staging / MODEL_CONFIG)
            (staging / TRAIN_CONFIG).write_text(config_to_yaml(config))
            state.save(staging)
            for name, folder in tokenizer_dirs.items():
                shutil.copytree(folder, staging / name, dirs_exist_ok=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        if dist.get_rank() == 0:
            shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(f"{root / folder_name(state.iteration)}: could not be saved: {error}") from error
    return plan


def _model_keys(chunks: list[Any]) -> list[str]:
    """Return each chunk's key in megatron-core's state dict: `model`, or `model0`, `model1` and so on for several."""
    return ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]


def sharded_state_dict(chunks: list[Any], optimizer: Any = None) -> dict[str, Any]:
    """Return the sharded tensors of the model chunks by their keys in a checkpoint.

    With an `optimizer`, its state for saving is added under the key `optimizer`.
    """
    metadata = {
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    state_dict: dict[str, Any] = {
        key: unwrap(chunk).sharded_state_dict(metadata=metadata)
        for key, chunk in zip(_model_keys(chunks), chunks, strict=True)
    }
    for key in _model_keys(chunks):
        for tensor in nested_values(state_dict[key]):
            if isinstance(tensor, ShardedTensor):
                tensor.allow_shape_mismatch = False  # megatron-core would pad or cut a vocabulary silently
    if optimizer is not None:
        _create_moments(optimizer)
        state_dict["optimizer"] = sharded_optimizer_state(optimizer, state_dict)
    return state_dict


def _create_moments(optimizer: Any) -> None:
    """Create Adam's moments, which otherwise exist only after the first applied step."""
    for part in optimizer.chained_optimizers:
        part.init_state_fn(part.optimizer, part.config)
