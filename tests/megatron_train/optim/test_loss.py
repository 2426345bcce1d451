from __future__ import annotations

from megatron_train.optim.loss import loss_factors


def test_token_factors_weigh_every_target_alike() -> None:
    assert loss_factors([3.0, 0.0, 5.0], "token", 1, None) == [0.125, 0.125, 0.125]


def test_micro_batch_factors_are_megatron_llms() -> None:
    """The factor is 1 / (targets of the micro-batch x micro-batches x data-parallel size)."""
    assert loss_factors([2.0, 0.0, 4.0, 1.0], "micro_batch", 2, None) == [1 / 16, 0.0, 1 / 32, 1 / 8]


def test_a_batch_without_targets_has_factor_zero() -> None:
    assert loss_factors([0.0, 0.0], "token", 1, None) == [0.0, 0.0]
