"""Start and save a Run from flat settings, as in a YAML file, in one process or on each of several ranks."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from megatron_train.certificate.tensors import perturb_parameters
from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.save_load import load_checkpoint, save_checkpoint
from megatron_train.config.flags import CommandLine, config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.config.validate import validate, validate_model
from megatron_train.data.sft_dataset import training_samples
from megatron_train.parallel.distributed import init_distributed, seed_rank, world_size
from megatron_train.run import Run

_entered: ParallelLayout | None = None


def start(model: ModelConfig, settings: dict[str, Any], weights: Path | None = None, resume: bool = False) -> Run:
    """Build a run from random weights or from the weights of a checkpoint. With `resume`, restore the whole state."""
    config = config_from_settings({"train_iters": 100, "seq_length": 48} | settings, "test")
    command = CommandLine(config, {}, {})
    validate(command, ParallelLayout.planned(config.parallel, world_size()))
    layout = enter_layout(config)
    validate_model(command, model, layout)
    num_samples = config.batch.train_iters * layout.global_batch_size(config.batch)
    samples = training_samples(config.data, num_samples, config.batch.seed)
    run = Run.build(config, layout, model, samples, random_weights=weights is None)
    if weights is None:
        perturb_parameters(run.chunks)
        run.optimizer.reload_model_params()
    seed_rank(config.batch.seed)  # drawing the random initial weights advances the same streams
    if weights is not None:
        run.state = load_checkpoint(Start(weights, resume), config, run.chunks, run.optimizer, layout)
    return run


def save(run: Run, folder: Path) -> Path:
    """Save a checkpoint below `folder` and return its own folder."""
    checkpoint = replace(run.config.checkpoint, save=str(folder))
    return save_checkpoint(run.contents()._replace(config=replace(run.config, checkpoint=checkpoint)))


def enter_layout(config: TrainConfig) -> ParallelLayout:
    """Start the process groups of a layout. Keep those of the previous run when the layout is the same."""
    global _entered
    planned = ParallelLayout.planned(config.parallel, world_size())
    if (
        _entered
        and same_groups(planned, _entered)
        and dist.is_initialized()
        and parallel_state.model_parallel_is_initialized()
    ):
        seed_rank(config.batch.seed)
        return planned
    gc.collect()  # reference cycles keep the previous run's groups alive
    _entered = init_distributed(config.parallel, config.batch.seed)
    return _entered


def same_groups(one: ParallelLayout, other: ParallelLayout) -> bool:
    """Return whether two layouts have the same process groups. The split of the layers does not matter."""
    return replace(one, first_layers=None, last_layers=None) == replace(other, first_layers=None, last_layers=None)
