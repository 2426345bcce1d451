"""Take the optimizer step only when gradients are finite and, on request, neither loss nor gradient norm is a spike.

    applied, grad_norm = apply_update(optimizer, clip_grad=1.0, veto=lambda norm: is_spike(norm, history, sigma=6))

megatron-core checks for infinities in fp16 only. In bf16 and fp32, one NaN would reach every weight.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

from megatron_train.optim.adam import FusedLayoutAdam
from megatron_train.parallel.distributed import device

MIN_HISTORY = 16
"""Minimum length of the history to detect spikes. The standard deviation of fewer values is unreliable."""
MIN_SPREAD = 1e-3
"""Lower bound of the standard deviation, as a share of the mean. Without it, after equal values any small increase
would count as a spike."""


def apply_update(optimizer: Any, clip_grad: float, veto: Callable[[float], bool]) -> tuple[bool, float]:
    """Clip the gradients and take the optimizer step, unless a gradient is not finite or `veto` objects.

    Return, on every rank, whether the step was taken and the global gradient norm before clipping. `optimizer` is
    megatron-core's ChainedOptimizer after the backward pass. `veto` gets the norm and returns True to skip the step.
    The norm is NaN after an fp16 overflow.
    """
    if optimizer.prepare_grads():  # fp16 overflow; the loss scale has been lowered
        return False, math.nan
    grad_norm = global_norm(optimizer)
    if not math.isfinite(grad_norm) or veto(grad_norm):
        return False, grad_norm
    if clip_grad > 0:
        _clip(optimizer, clip_grad, grad_norm)
    return bool(optimizer.step_with_ready_grads()), grad_norm


def global_norm(optimizer: Any) -> float:
    """Return the L2 norm of the gradients of the whole model, over all ranks.

    The result is copied from the device once, because each copy waits for the GPU.
    """
    (part,) = optimizer.chained_optimizers
    has_new_name = hasattr(part, "get_grads_for_grad_norm")  # since megatron-core 0.19
    gradients = part.get_grads_for_grad_norm() if has_new_name else part.get_main_grads_for_grad_norm()
    if gradients:
        squared = torch.stack(torch._foreach_norm(gradients)).square().sum()
    else:
        squared = torch.zeros((), device=device())
    torch.distributed.all_reduce(squared, group=part.get_grad_stats_parallel_group())
    return float(squared.item() ** 0.5)


def _clip(optimizer: Any, limit: float, norm: float) -> None:
    """Scale gradients of the global norm `norm` down to the norm `limit`, if it is larger.

    FusedLayoutAdam scales them inside its next step, which saves a pass over memory. For any other Adam they are scaled
    here.
    """
    for part in optimizer.chained_optimizers:
        parameters = [] if getattr(part, "is_stub_optimizer", False) else part.get_parameters()
        if not parameters:
            continue
        if isinstance(part.optimizer, FusedLayoutAdam):
            part.optimizer.gradient_divisor = max(1.0, (norm + 1e-6) / limit)
        else:
            clip_grad_by_total_norm_fp32(parameters, max_norm=limit, total_norm=norm)


class DivergedError(ValueError):
    """Raised after too many iterations in a row whose loss or gradient norm is not finite."""


class NothingLearnedError(ValueError):
    """Raised at the end of a run in which no optimizer step was ever applied, so that the weights never changed."""


class Divergence:
    """Counts the iterations in a row whose loss or gradient norm is not finite."""

    def __init__(self, limit: int) -> None:
        """Set `limit`, the number of non-finite iterations in a row that ends the run; 0 = never."""
        self.limit, self.count = limit, 0

    def check(self, iteration: int, loss: float, grad_norm: float) -> None:
        """Count this iteration if its loss or gradient norm is not finite, else reset the count to 0.

        Raises DivergedError when the count reaches the limit. None of these iterations changed the weights, so further
        ones are unlikely to do better.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.count = 0
            return
        self.count += 1
        if self.count == self.limit:
            raise DivergedError(
                f"{self.limit} iterations in a row up to {iteration} were not finite (loss {loss}, gradient norm "
                f"{grad_norm}): none was applied; start again from an older checkpoint (--load_iters) with a lower "
                "--lr, with --bf16 in place of --fp16, or without the data read there (--skip_iters); "
                "--max_not_finite allows more"
            )


def is_spike(value: float, history: Sequence[float], sigma: float) -> bool:
    """Return whether `value` is more than `sigma` standard deviations above the mean of `history`, the recent values.

    With fewer than MIN_HISTORY recent values, nothing is a spike. The history includes earlier spikes. So if the values
    stay high, they stop counting as spikes after a while.
    """
    if len(history) < MIN_HISTORY:
        return False
    mean = statistics.fmean(history)
    return value > mean + sigma * max(statistics.pstdev(history), MIN_SPREAD * abs(mean))
