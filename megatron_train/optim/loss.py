"""The factor by which each micro-batch's sum of losses enters the loss of the global batch.

    token        1 / the sum of loss weights over all micro-batches and ranks: each target token counts the same
    micro_batch  the mean of the micro-batches' means, as in Megatron-LLM: each counts 1 / (num_microbatches * dp)

Every rank knows the factors before the forward pass, because it reads its own data. A micro-batch without target tokens
has factor 0 and contributes nothing, never NaN.
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
    """Return the factor of each micro-batch of this rank. `weights` are the sums of their loss weights.

    `group` is the data-parallel process group; None means that there are no other ranks.
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
