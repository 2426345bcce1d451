"""The planner's figures against megatron-core's own allocations, published arithmetic, and what the command prints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_train.__main__ import main
from megatron_train.config.flags import config_from_settings, parse
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.planning.command import plan_parser
from megatron_train.planning.devices import DEVICES
from megatron_train.planning.memory import chunk_parameters, chunks_in_flight, layer_activation, stage_memory
from megatron_train.planning.plan import Plan, make_plan
from megatron_train.planning.suggest import suggest
from megatron_train.planning.workload import bubble_fraction
from tests.conftest import write_shard
from tests.distributed import run_distributed
from tests.megatron_train.models import MODELS
from tests.paths import CONFIGS
from tests.test_cards import card_flags

LLAMA = MODELS["llama"]
# (model, settings): layouts of 4 processes, those with the same process groups one after another.
ALLOCATIONS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "fp16": True}),
    ("falcon_40b", {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "bf16": True}),
    ("llama", {"pipeline_model_parallel_size": 4}),
    ("falcon_7b", {"pipeline_model_parallel_size": 4, "bf16": True}),
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
# (changes to a wider model, settings): LayerNorm, which keeps the same on the CPU as on a GPU.
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
    """(what autograd keeps of one layer per token, what the planner says) for each of ACTIVATIONS."""
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
    """Bytes of the distinct storages a forward pass leaves for the backward pass, parameters left out."""
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
    """(stage, weights, gradients, optimizer) bytes of this rank for each of ALLOCATIONS, as allocated."""
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
    """Makes process groups, which is slow, only where those there are others."""
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
    """What megatron-core holds, by rank: one launch for all."""
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
            kept -= 2 * 256 * (4 - 1)  # the CPU keeps each dropout mask in the type of the numbers, a GPU in a byte
        assert planned == pytest.approx(kept, rel=0.03), case


# The card's layout -----------------------------------------------------------------------------------------------


def test_llama2_70b_rank_is_36_gib_before_activations() -> None:
    """2.17 G parameters x 18 bytes, as users of the original measured."""
    plan = plan_of(["--config", f"{CONFIGS}/train/llama2-70b-oasst-sft-v10_stage1.yaml", "--world_size", "32"])
    assert [stage.parameters for stage in plan.stages] == [2172321792, 2139422720, 2139422720, 2172329984]
    first = plan.stages[0]
    assert round((first.weights + first.gradients + first.optimizer) / 2**30, 1) == 36.4
    whole = sum(stage.parameters for stage in plan.stages) * 8
    norms = 7 * (80 * 2 + 1) * 8192  # held by all 8 tensor-parallel ranks alike
    assert whole - norms == plan.model.num_parameters(plan.model.padded_vocab) == 68_978_745_344


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
    three = planned_config(full | {"recompute_method": "uniform", "recompute_num_layers": 3})  # of four: two at a time
    assert stage_memory(LLAMA, three, layout, 0).activations == int(2 * entry + 2 * entry + 2 * layer)
    block = planned_config(full | {"recompute_method": "block"})
    assert stage_memory(LLAMA, block, layout, 0).activations == int(entry + 3 * layer + 2 * entry + layer)


def test_bubble_of_the_card_is_8_6_percent() -> None:
    assert round(bubble_fraction(4, 1, 32), 3) == 0.086


def test_tied_embeddings_are_held_once_on_one_stage_and_twice_on_two() -> None:
    falcon = MODELS["falcon_7b"]
    rows = falcon.padded_vocab * falcon.hidden_size
    whole = sum(parameter.numel for parameter in chunk_parameters(falcon, ParallelLayout(2, 1, 1), 0))
    halves = [sum(p.numel for p in chunk_parameters(falcon, ParallelLayout(2, 1, 2), stage)) for stage in (0, 1)]
    assert whole == falcon.num_parameters(falcon.padded_vocab)
    assert sum(halves) == whole + rows


# What a user sees ------------------------------------------------------------------------------------------------


def plan_of(arguments: list[str]) -> Plan:
    own, rest = plan_parser().parse_known_args(arguments)
    return make_plan(parse(rest), own)


def test_plan_of_stage_2_prints_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--world_size", "64", *card_flags(2), "--suggest"]) == 0
    printed = capsys.readouterr().out
    for figure in (
        "68,976,648,192 as published (vocabulary 32,000); 68,978,745,344 allocated (32,007 token ids in 32,128 rows)",
        "64 GPUs = TP 8 x PP 4 x DP 2, sequence parallel",
        "15.8% of a step",
        "11,087 documents to train on of 464.6 tokens on average",
        "519 = 2.996 epochs of 11,087 documents",
        "965.7 GB each (138.0 GB weights, 827.7 GB optimizer)",
        "2 saves, every 346 iterations and at the end; 2 kept",
        "layouts that fit on 64 H100 80 GB",
    ):
        assert figure in printed


def test_plan_needs_no_torch_and_no_file_that_a_flag_names() -> None:
    flags = [sys.executable, "-c", "import sys; from megatron_train.__main__ import main; main(sys.argv[1:]);"]
    flags[-1] += " sys.exit(len({'torch', 'megatron'} & set(sys.modules)))"
    config = CONFIGS / "train" / "falcon-7b-sft-top1-696.yaml"
    done = subprocess.run(
        [*flags, "plan", "--config", str(config), "--world_size", "8"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "696 = 8.009 epochs of 11,123 documents" in done.stdout


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--world_size", "8", "--model", "{llama}", "--data_path", "d"],
            "train_iters: the length of an epoch",
        ),
        (["--world_size", "3", "--train_iters", "9", "--tensor_model_parallel_size", "2"], "world size 3 is not a"),
        (
            ["--world_size", "2", "--train_iters", "9", "--data_path", "d", "--load", "nowhere"],
            "names no known architecture",
        ),
        (["--train_iters", "9"], "--world_size"),
    ],
)
def test_bad_plans_are_refused_with_the_remedy(
    flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = f"{CONFIGS}/model/llama2_70b.yaml"
    assert main(["plan", *(flag.replace("{llama}", llama) for flag in flags)]) == 2
    assert expected in capsys.readouterr().err


def test_epochs_are_read_from_the_shards_where_they_are(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "own", [([5] * 9, [2] * 9)] * 30 + [([5] * 99, [2] * 99)] * 10)
    flags = ["--model", f"{CONFIGS}/model/tiny_llama.yaml", "--train_data_path", shard, "--seq_length", "64"]
    flags += ["--train_iters", "10", "--micro_batch_size", "4", "--world_size", "1"]
    plan = plan_of(flags)
    assert plan.facts is not None and plan.facts.source == "read from the shards"
    assert (plan.work.epochs, plan.facts.documents, plan.facts.mean_tokens) == (1.0, 40, (30 * 9 + 10 * 65) / 40)
    packed = plan_of([*flags, "--packing"])
    assert packed.work.rows_per_epoch == 14  # 10 rows of one cut document, 4 rows of up to 8 short ones
    assert packed.work.positions_per_iteration == 4 * 64


def test_suggestions_fit_and_are_ranked() -> None:
    arguments = ["--config", f"{CONFIGS}/train/llama2-70b-oasst-sft-v10_stage1_packed.yaml", "--world_size", "16"]
    own, rest = plan_parser().parse_known_args(
        [*arguments, "--gpu", "h200-141gb", "--virtual_pipeline_model_parallel_size", "1"]
    )
    command = parse([*rest, "--pipeline_model_parallel_size", "2"])
    plan = make_plan(command, own)
    found = suggest(command, plan.model, plan.facts, 16, DEVICES["h200-141gb"], 0.4)
    assert found and all(one.gib <= 0.94 * 139.7 for one in found)
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)
    assert all(one.layout.tp * one.layout.pp * one.layout.dp == 16 for one in found)
    assert not suggest(command, plan.model, plan.facts, 16, DEVICES["a100-40gb"], 0.4)
