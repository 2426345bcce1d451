"""Masked cross-entropy and what it is divided by.

    token        every target token of the global batch weighs the same: loss_sum / sum of loss_mask over micro-batches
                 and ranks
    micro_batch  mean of the micro-batches' means, as Megatron-LLM: each weighs 1 / (num_microbatches * dp)

Both are one factor per micro-batch, known before the forward pass because every rank reads its own data. A micro-batch
without target tokens has factor 0 and contributes nothing, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from megatron_train.parallel.device import uses_cuda


def masked_loss_sum(losses: Tensor, loss_mask: Tensor) -> Tensor:
    """Sum of `losses` [b, s] weighted by `loss_mask` [b, s], in fp32. Masked positions may hold anything, even NaN."""
    return torch.where(loss_mask > 0, losses.float() * loss_mask, 0.0).sum()


def loss_factors(
    weights: Sequence[float],
    normalization: Literal["token", "micro_batch"],
    data_parallel_size: int,
    group: object | None,
) -> list[float]:
    """The factor each micro-batch's loss_sum is multiplied by. `weights`: sum of each micro-batch's loss_mask on this
    rank.

    `group` is the data-parallel process group (None: no other ranks).
    """
    if normalization == "micro_batch":
        scale = len(weights) * data_parallel_size
        return [1.0 / (weight * scale) if weight > 0 else 0.0 for weight in weights]
    total = torch.tensor(float(sum(weights)), dtype=torch.float64)
    if group is not None and data_parallel_size > 1:
        total = total.to("cuda" if uses_cuda() else "cpu")
        torch.distributed.all_reduce(total, group=group)
    factor = 1.0 / total.item() if total.item() > 0 else 0.0
    return [factor] * len(weights)
