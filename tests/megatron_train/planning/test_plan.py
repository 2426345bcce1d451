"""A whole plan gives the published figures of the card's model."""

from __future__ import annotations

from tests.megatron_train.planning.plans import plan_of
from tests.paths import CONFIGS


def test_llama2_70b_rank_is_36_gib_before_activations() -> None:
    """2.17 G parameters x 18 bytes, as users of the original measured."""
    plan = plan_of(["--config", f"{CONFIGS}/train/llama2-70b-oasst-sft-v10_stage1.yaml", "--world_size", "32"])
    assert [stage.parameters for stage in plan.stages] == [2172321792, 2139422720, 2139422720, 2172329984]
    first = plan.stages[0]
    assert round((first.weights + first.gradients + first.optimizer) / 2**30, 1) == 36.4
    whole = sum(stage.parameters for stage in plan.stages) * 8
    norms = 7 * (80 * 2 + 1) * 8192  # all 8 tensor-parallel ranks hold a copy
    assert whole - norms == plan.model.num_parameters(plan.model.padded_vocab) == 68_978_745_344
