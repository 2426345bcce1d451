"""The planner's figures against megatron-core's own allocations, published arithmetic, and what the command prints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_train.command_line import config_from_settings
from megatron_train.config import TrainConfig
from megatron_train.model_config import ModelConfig
from megatron_train.parallel_layout import ParallelLayout
from megatron_train.planning.memory import (
    chunk_parameters,
    chunks_in_flight,
    layer_activation,
    stage_memory,
)
from tests.distributed import run_distributed
from tests.megatron_train.toy_run import MODELS

LLAMA = MODELS["llama"]
# (model, settings): layouts of 4 processes.
ALLOCATIONS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tensor_model_parallel_size": 2, "sequence_parallel": True, "bf16": True}),
    ("llama", {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "fp16": True}),
    ("llama", {"pipeline_model_parallel_size": 4}),
    (
        "llama",
        {
            "pipeline_model_parallel_size": 2,
            "virtual_pipeline_model_parallel_size": 2,
            "overlap_grad_reduce": True,
            "bf16": True,
        },
    ),
    ("llama", {"overlap_grad_reduce": True, "overlap_param_gather": True, "bf16": True}),
    ("llama", {}),
    ("neox_parallel", {"tensor_model_parallel_size": 4, "bf16": True}),
    ("neox_sequential", {"tensor_model_parallel_size": 2, "bf16": True}),
    ("falcon_7b", {"pipeline_model_parallel_size": 2, "bf16": True}),
    ("falcon_7b", {"bf16": True}),
    ("falcon_40b", {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "bf16": True}),
]


def allocated_bytes() -> list[tuple[int, int, int, int]]:
    """(stage, weights, gradients, optimizer) bytes on this rank for each of ALLOCATIONS, as megatron-core holds them."""
    from megatron.core import parallel_state

    from megatron_train.model.build import build_model
    from megatron_train.optim.optimizer import build_optimizer, wrap_model
    from megatron_train.parallel.distributed import init_distributed

    found = []
    for name, settings in ALLOCATIONS:
        config = planned_config(settings)
        init_distributed(config.parallel, config.batch.seed)
        chunks = wrap_model(build_model(MODELS[name], config), config)
        optimizer: Any = build_optimizer(chunks, config)
        buffers = [buffer for chunk in chunks for buffer in chunk.buffers]
        weights = sum(buffer.param_data.nbytes for buffer in buffers)
        gradients = sum(buffer.grad_data.nbytes for buffer in buffers)
        state = 0
        for part in optimizer.chained_optimizers:
            part.init_state_fn(part.optimizer, part.config)
            state += sum(tensor.nbytes for one in part.optimizer.state.values() for tensor in one.values())
            state += sum(main.nbytes for group in part.shard_fp32_from_float16_groups for main in group)
        found.append((parallel_state.get_pipeline_model_parallel_rank(), weights, gradients, state))
    return found


def planned_config(settings: dict[str, Any]) -> TrainConfig:
    return config_from_settings({"train_iters": 1, "seq_length": 48, "global_batch_size": 16} | settings, "test")


def planned_layout(config: TrainConfig, world_size: int) -> ParallelLayout:
    parallel = config.parallel
    return ParallelLayout(
        world_size,
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size or 1,
    )


def test_weights_gradients_and_optimizer_are_what_megatron_core_allocates() -> None:
    ranks = run_distributed(allocated_bytes, 4)
    for case, (name, settings) in enumerate(ALLOCATIONS):
        config = planned_config(settings)
        layout = planned_layout(config, 4)
        for stage in range(layout.pp):
            plan = stage_memory(MODELS[name], config, layout, stage)
            own = [rank[case] for rank in ranks if rank[case][0] == stage]
            assert len(own) == 4 // layout.pp
            assert {one[1] for one in own} == {plan.weights}, (name, settings, stage)
            assert {one[2] for one in own} == {plan.gradients}, (name, settings, stage)
            assert max(one[3] for one in own) == plan.optimizer, (name, settings, stage)
