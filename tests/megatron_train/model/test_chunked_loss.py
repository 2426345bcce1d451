"""The chunked loss from hidden states equals torch's cross-entropy of whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.flags import config_from_settings
from megatron_train.model.chunked_loss import VocabularyRows, weighted_loss_sum
from megatron_train.parallel.distributed import init_distributed

TARGETS, HIDDEN, IN_USE, ALLOCATED = 37, 16, 90, 128


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return random hidden states, output weights, labels and loss weights."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TARGETS, HIDDEN, generator=generator)
    weight = torch.randn(ALLOCATED, HIDDEN, generator=generator)
    labels = torch.randint(0, IN_USE, (TARGETS,), generator=generator)
    return hidden, weight, labels, torch.rand(TARGETS, generator=generator) + 0.1


def by_torch() -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and gradients from whole logits in fp64, scaled by 3."""
    hidden, weight, labels, weights = inputs()
    hidden, weight = hidden.double().requires_grad_(), weight.double().requires_grad_()
    losses = F.cross_entropy((hidden @ weight.t())[:, :IN_USE], labels, reduction="none")
    loss = (losses * weights).sum()
    (loss * 3).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("chunk_size", [1, 7, 37, 1000])
def test_loss_and_gradients_equal_those_of_whole_logits(chunk_size: int) -> None:
    hidden, weight, labels, weights = inputs()
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = weighted_loss_sum(hidden, weight, labels, weights, VocabularyRows(0, IN_USE), chunk_size)
    (loss * 3).backward()
    expected = by_torch()
    torch.testing.assert_close(loss.detach().double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(hidden.grad.double(), expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), expected[2], rtol=1e-5, atol=1e-5)
    assert not weight.grad[IN_USE:].any()


def test_no_targets_give_a_loss_of_zero_and_zero_gradients() -> None:
    hidden, weight = torch.zeros(0, HIDDEN, requires_grad=True), torch.ones(ALLOCATED, HIDDEN, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss = weighted_loss_sum(hidden, weight, none, none.float(), VocabularyRows(0, IN_USE), 8)
    loss.backward()
    assert loss.item() == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_16_bit_model_gets_16_bit_gradients_close_to_fp32() -> None:
    hidden, weight, labels, weights = inputs()
    half = [x.bfloat16().requires_grad_() for x in (hidden, weight)]
    loss = weighted_loss_sum(*half, labels, weights, VocabularyRows(0, IN_USE), 8)
    (loss * 3).backward()
    expected = by_torch()
    assert loss.dtype == torch.float32
    for found, gradient in zip(half, expected[1:], strict=True):
        assert found.grad is not None
        assert found.grad.dtype == torch.bfloat16
        assert (found.grad.double() - gradient).norm() < 0.02 * gradient.norm()


def test_logits_exist_for_one_chunk_at_a_time() -> None:
    """The fp32 logits of all 512 targets would take 512 x 4,096 x 4 bytes, 8.4 MB. A chunk of 32 takes 0.5 MB."""
    hidden, weight = torch.randn(512, 8, requires_grad=True), torch.randn(4096, 8, requires_grad=True)
    labels, weights = torch.randint(0, 4096, (512,)), torch.ones(512)
    with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
        weighted_loss_sum(hidden, weight, labels, weights, VocabularyRows(0, 4096), 32).backward()
    sizes = [shape for event in profile.events() for shape in event.input_shapes if len(shape) == 2]
    assert [32, 4096] in sizes
    assert not any(rows == 512 and columns == 4096 for rows, columns in sizes)


def on_two_ranks() -> dict[str, Any]:
    """Return this rank's loss and gradients. Each rank holds 64 vocabulary rows, of which the second uses 26."""
    init_distributed(config_from_settings({"tensor_model_parallel_size": 2}, "test").parallel, 0)
    hidden, weight, labels, weights = inputs()
    rank = dist.get_rank()
    hidden.requires_grad_()
    part = weight[64 * rank : 64 * (rank + 1)].clone().requires_grad_()
    rows = VocabularyRows(64 * rank, (64, 26)[rank], dist.group.WORLD)
    loss = weighted_loss_sum(hidden, part, labels, weights, rows, 8)
    (loss * 3).backward()
    assert hidden.grad is not None
    dist.all_reduce(hidden.grad)
    return {"loss": loss.detach(), "hidden": hidden.grad, "weight": part.grad}


def test_two_ranks_that_share_the_vocabulary() -> None:
    first, second = run_distributed(on_two_ranks, 2)
    loss, hidden, weight = by_torch()
    for rank in (first, second):
        torch.testing.assert_close(rank["loss"].double(), loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(rank["hidden"].double(), hidden, rtol=1e-5, atol=1e-5)
    both = torch.cat([first["weight"], second["weight"]])
    torch.testing.assert_close(both.double(), weight, rtol=1e-5, atol=1e-5)
