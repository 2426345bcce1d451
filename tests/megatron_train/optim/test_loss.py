from __future__ import annotations

import torch

from megatron_train.optim.loss import loss_factors, masked_loss_sum


def test_masked_loss_sum_weighs_and_ignores_what_is_masked() -> None:
    losses = torch.tensor([[1.0, float("nan"), 4.0], [float("inf"), 2.0, 8.0]])
    mask = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
    assert masked_loss_sum(losses, mask).item() == 11.0


def test_masked_loss_sum_gives_no_nan_gradient_where_masked() -> None:
    logits = torch.tensor([1.0, 1e4], requires_grad=True)
    losses = torch.stack([logits[0] * 3, logits[1] * torch.tensor(float("inf"))])[None]
    masked_loss_sum(losses, torch.tensor([[1.0, 0.0]])).backward()
    assert logits.grad is not None
    assert logits.grad[0].item() == 3.0


def test_masked_loss_sum_of_nothing_is_zero() -> None:
    assert masked_loss_sum(torch.full((2, 3), float("nan")), torch.zeros(2, 3)).item() == 0.0


def test_masked_loss_sum_is_fp32_for_bf16_losses() -> None:
    losses = torch.full((1, 4096), 1.0, dtype=torch.bfloat16)
    assert masked_loss_sum(losses, torch.ones(1, 4096)).item() == 4096.0


def test_token_factors_weigh_every_target_alike() -> None:
    assert loss_factors([3.0, 0.0, 5.0], "token", 1, None) == [0.125, 0.125, 0.125]


def test_micro_batch_factors_are_megatron_llms() -> None:
    """1 / (targets of the micro-batch x micro-batches x data-parallel size)."""
    assert loss_factors([2.0, 0.0, 4.0, 1.0], "micro_batch", 2, None) == [1 / 16, 0.0, 1 / 32, 1 / 8]


def test_a_batch_without_targets_has_factor_zero() -> None:
    assert loss_factors([0.0, 0.0], "token", 1, None) == [0.0, 0.0]
