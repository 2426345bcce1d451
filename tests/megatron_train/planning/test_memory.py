"""The planner's memory figures, compared with megatron-core's own allocations and published arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.flags import config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.planning.memory import chunks_in_flight, layer_activation, stage_memory
from tests.megatron_train.models import MODELS

LLAMA = MODELS["llama"]
# (model, settings) in layouts of 4 processes. Those with the same process groups follow one another.
ALLOCATIONS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "fp16": True}),
    ("falcon_40b", {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "bf16": True}),
    ("llama", {"pipeline_model_parallel_size": 4}),
    ("falcon_7b", {"pipeline_model_parallel_size": 4, "bf16": True}),
    ("llama", {"pipeline_model_parallel_size": 2, "decoder_first_pipeline_num_layers": 3, "bf16": True}),
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
    ("falcon_7b", {"bf16": True}),
    ("llama", {"tensor_model_parallel_size": 2, "sequence_parallel": True, "bf16": True}),
    ("neox_parallel", {"tensor_model_parallel_size": 2, "bf16": True}),
    ("neox_sequential", {"tensor_model_parallel_size": 2, "bf16": True}),
]
# (changes to a wider model, settings). LayerNorm keeps the same tensors on the CPU as on a GPU.
WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "ffn_hidden_size": 640,
    "num_attention_heads": 8,
    "num_query_groups": 8,
    "kv_channels": 32,
    "max_position_embeddings": 128,
    "normalization": "LayerNorm",
}
ACTIVATIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {"bf16": True, "tensor_model_parallel_size": 2}),
    ("llama", {}, {"bf16": True, "tensor_model_parallel_size": 2, "sequence_parallel": True}),
    ("llama", {}, {"bf16": True}),
    ("llama", {"num_query_groups": 2}, {"bf16": True, "micro_batch_size": 1}),
    ("llama", {}, {"hidden_dropout": 0.1}),
    ("neox_parallel", {}, {"bf16": True}),
    ("neox_sequential", {}, {}),
    ("falcon_7b", {}, {"bf16": True}),
]


def measured_on_one_launch() -> tuple[list[tuple[int, int, int, int]], list[tuple[float, float]]]:
    return allocated_bytes(), activation_bytes()


def activation_bytes() -> list[tuple[float, float]]:
    """Return for each of ACTIVATIONS the bytes per token that autograd keeps of one layer, and the planner's figure."""
    found = []
    for name, changes, settings in ACTIVATIONS:
        config = planned_config({"seq_length": 128, "micro_batch_size": 2} | settings)
        model = replace(MODELS[name], **WIDE | changes)
        ensure_groups(config)
        deep, shallow = (saved_bytes(replace(model, num_layers=layers), config) for layers in (4, 2))
        tokens = config.batch.micro_batch_size * config.data.seq_length
        found.append(((deep - shallow) / 2 / tokens, layer_activation(model, config, planned_layout(config, 4))))
    return found


def saved_bytes(model: ModelConfig, config: TrainConfig) -> int:
    """Return the bytes of the distinct storages that a forward pass keeps for the backward pass, without parameters."""
    import torch

    from megatron_train.model.build import build_model

    chunk = build_model(model, config)[0]
    chunk = chunk.bfloat16() if config.model.bf16 else chunk
    own = {parameter.untyped_storage().data_ptr() for parameter in chunk.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    tokens = torch.randint(0, 100, (config.batch.micro_batch_size, config.data.seq_length))
    positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        chunk(tokens, positions, None, labels=tokens)
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in own)


def allocated_bytes() -> list[tuple[int, int, int, int]]:
    """Return this rank's stage and its allocated bytes of weights, gradients and optimizer, for each of ALLOCATIONS."""
    from megatron.core import parallel_state

    from megatron_train.model.build import build_model
    from megatron_train.optim.optimizer import build_optimizer, wrap_model

    found = []
    for name, settings in ALLOCATIONS:
        config = planned_config(settings)
        ensure_groups(config)
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


def ensure_groups(config: TrainConfig) -> None:
    """Create process groups unless the present ones fit, because creating them is slow."""
    from megatron.core import parallel_state

    from megatron_train.parallel.distributed import init_distributed

    parallel = config.parallel
    wanted = [
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size,
    ]
    there = parallel_state.model_parallel_is_initialized() and [
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_virtual_pipeline_model_parallel_world_size(),
    ]
    if there != wanted:
        init_distributed(parallel, config.batch.seed)


def planned_config(settings: dict[str, Any]) -> TrainConfig:
    return config_from_settings({"train_iters": 1, "seq_length": 48, "global_batch_size": 16} | settings, "test")


def planned_layout(config: TrainConfig, world_size: int) -> ParallelLayout:
    return ParallelLayout.planned(config.parallel, world_size)


@pytest.fixture(scope="module")
def measured() -> list[Any]:
    """Return megatron-core's allocations by rank. All layouts share one launch."""
    return run_distributed(measured_on_one_launch, 4)


def test_weights_gradients_and_optimizer_are_what_megatron_core_allocates(measured: list[Any]) -> None:
    ranks = [rank[0] for rank in measured]
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


def test_activations_of_a_layer_are_within_3_percent_of_what_autograd_keeps(measured: list[Any]) -> None:
    for (kept, planned), case in zip(measured[0][1], ACTIVATIONS):
        if "hidden_dropout" in case[2]:
            kept -= 2 * 256 * (4 - 1)  # the CPU stores a dropout mask in the type of the activations, a GPU in bytes
        assert planned == pytest.approx(kept, rel=0.03), case


def test_stages_keep_fewer_micro_batches_the_later_they_are() -> None:
    config = planned_config({"pipeline_model_parallel_size": 4, "global_batch_size": 32})
    layout = ParallelLayout(4, 1, 4)
    assert [chunks_in_flight(layout, config, stage) for stage in range(4)] == [4, 3, 2, 1]
    interleaved = ParallelLayout(4, 1, 4, vpp=2)
    assert [chunks_in_flight(interleaved, config, stage) for stage in range(4)] == [11, 9, 7, 5]
    few = planned_config({"pipeline_model_parallel_size": 4, "global_batch_size": 2})
    assert [chunks_in_flight(layout, few, stage) for stage in range(4)] == [2, 2, 2, 1]


def test_full_recomputation_keeps_the_input_of_each_layer() -> None:
    full = {"recompute_granularity": "full", "recompute_num_layers": 1, "bf16": True, "global_batch_size": 1}
    uniform = planned_config(full | {"recompute_method": "uniform"})
    layout, layer = ParallelLayout(1), layer_activation(LLAMA, uniform, ParallelLayout(1)) * 48
    entry = 48 * 64 * 2
    assert stage_memory(LLAMA, uniform, layout, 0).activations == int(4 * entry + 2 * entry + layer)
    three = planned_config(
        full | {"recompute_method": "uniform", "recompute_num_layers": 3}
    )  # two of the four layers at a time
    assert stage_memory(LLAMA, three, layout, 0).activations == int(2 * entry + 2 * entry + 2 * layer)
    block = planned_config(full | {"recompute_method": "block"})
    assert stage_memory(LLAMA, block, layout, 0).activations == int(entry + 3 * layer + 2 * entry + layer)
