"""The planner suggests layouts that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_train.config.flags import parse
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.planning.command import plan_parser
from megatron_train.planning.devices import DEVICES
from megatron_train.planning.plan import make_plan
from megatron_train.planning.suggest import accumulation_seconds, stage_imbalance, suggest, uneven_layouts
from tests.megatron_train.planning.plans import plan_of
from tests.paths import CONFIGS


@pytest.mark.slow
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


def test_uneven_layouts_put_fewer_layers_beside_the_embedding_and_the_output_layer() -> None:
    found = uneven_layouts(ParallelLayout(4, pp=4), 32)
    assert [layout.stage_layers(32) for layout in found] == [
        [5, 9, 9, 9],
        [6, 9, 9, 8],
        [7, 9, 9, 7],
        [8, 9, 9, 6],
        [9, 9, 9, 5],
    ]
    chunks = uneven_layouts(ParallelLayout(8, pp=8, vpp=4), 80)
    assert [layout.stage_layers(80) for layout in chunks] == [[4, 12, 12, 12, 12, 12, 12, 4]]
    assert list(uneven_layouts(ParallelLayout(4), 32)) == []


def test_the_output_layer_counts_as_layers_of_the_last_stage() -> None:
    model = ModelConfig.load(CONFIGS / "model" / "llama2_70b.yaml")
    wide = replace(model, num_layers=8, padded_vocab_size=2 * model.parameters_per_layer() // model.hidden_size)
    even, uneven = ParallelLayout(2, pp=2), ParallelLayout(2, pp=2, first_layers=5)
    assert stage_imbalance(wide, even) == pytest.approx(6 * 2 / 10, rel=1e-6)
    assert stage_imbalance(wide, uneven) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.slow
def test_llama2_70b_has_27_layers_on_the_first_two_of_three_stages() -> None:
    flags = ["--config", f"{CONFIGS}/train/llama2-70b-oasst-sft-v10_stage1_packed.yaml", "--world_size", "24"]
    own, rest = plan_parser().parse_known_args([*flags, "--gpu", "h200-141gb"])
    command = parse([*rest, "--pipeline_model_parallel_size", "1", "--virtual_pipeline_model_parallel_size", "1"])
    command = replace(
        command, config=replace(command.config, batch=replace(command.config.batch, global_batch_size=24))
    )
    plan = make_plan(command, own)
    found = suggest(command, plan.model, plan.facts, 24, DEVICES["h200-141gb"], 0.4)
    (three,) = (one.layout for one in found if (one.layout.tp, one.layout.pp, one.layout.vpp) == (8, 3, 1))
    assert three.stage_layers(80) == [27, 27, 26]


def test_accumulation_seconds() -> None:
    plan = plan_of(
        ["--model", "llama3_8b", "--train_data_path", "x", "--train_iters", "9", "--world_size", "8", "--bf16"]
    )
    seconds = accumulation_seconds(plan.model, plan.layout, DEVICES["h100-80gb"])
    assert seconds == pytest.approx(8_030_261_248 * 8 / 3.35e12)
