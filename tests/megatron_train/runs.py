"""Start a Run from the flat settings of a YAML file, in this process or in one of several."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

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
    """Build a run from random weights, from the weights of a checkpoint folder, or from all of it with `resume`."""
    config = config_from_settings({"train_iters": 100, "seq_length": 48} | settings, "test")
    command = CommandLine(config, {}, {})
    validate(command, ParallelLayout.planned(config.parallel, world_size()))
    layout = enter_layout(config)
    validate_model(command, model, layout)
    num_samples = config.batch.train_iters * layout.global_batch_size(config.batch)
    run = Run.build(config, layout, model, training_samples(config.data, num_samples, config.batch.seed))
    if weights is None:
        perturb_parameters(run)
    seed_rank(config.batch.seed)  # the random initial weights were drawn from the same streams
    if weights is not None:
        run.state = load_checkpoint(Start(weights, resume), config, run.chunks, run.optimizer, layout)
    return run


def save(run: Run, folder: Path) -> Path:
    """Save a checkpoint below `folder` and return its own folder."""
    checkpoint = replace(run.config.checkpoint, save=str(folder))
    return save_checkpoint(run.contents()._replace(config=replace(run.config, checkpoint=checkpoint)))


def enter_layout(config: TrainConfig) -> ParallelLayout:
    """Start the process groups, and keep those of the run before when the layout is the same: each has its threads."""
    global _entered
    planned = ParallelLayout.planned(config.parallel, world_size())
    if planned == _entered and dist.is_initialized() and parallel_state.model_parallel_is_initialized():
        seed_rank(config.batch.seed)
        return planned
    gc.collect()  # the run before holds its groups in reference cycles
    _entered = init_distributed(config.parallel, config.batch.seed)
    return _entered


def perturb_parameters(run: Run) -> None:
    """Move the norms from one and the biases from zero, where a wrong layout would not show."""
    with torch.no_grad():
        for chunk in run.chunks:
            for parameter in chunk.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                else:
                    parameter.mul_(3.0)
            chunk.broadcast_params()
    run.optimizer.reload_model_params()
