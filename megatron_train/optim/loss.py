"""Compute the factors by which the loss sums of micro-batches are multiplied to give the loss of the global batch.

    token        1 / (sum of the loss weights over all micro-batches and ranks): each target token counts the same
    micro_batch  1 / (loss weights of the micro-batch * num_microbatches * data-parallel size): each micro-batch counts
                 the same, as in Megatron-LLM

Every rank computes its factors before the forward pass, from the data that it reads. A micro-batch without target
tokens has factor 0, so it contributes nothing instead of NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from megatron_train.parallel.device import uses_cuda


def loss_factors(
    weights: Sequence[float],
    normalization: Literal["token", "micro_batch"],
    data_parallel_size: int,
    group: object | None,
) -> list[float]:
    """Return the loss factor of each micro-batch of this rank, for the given `normalization`.

    `weights` has the sum of loss weights of each micro-batch. `group` is the data-parallel process group; None means
    that there are no other ranks.
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
