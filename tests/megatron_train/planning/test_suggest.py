"""The planner suggests layouts that fit."""

from __future__ import annotations

from megatron_train.config.flags import parse
from megatron_train.planning.command import plan_parser
from megatron_train.planning.devices import DEVICES
from megatron_train.planning.plan import make_plan
from megatron_train.planning.suggest import suggest
from tests.paths import CONFIGS


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
