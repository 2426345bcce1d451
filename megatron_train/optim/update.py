"""Take the optimizer step only when gradients are finite and, on request, neither loss nor norm is a spike.

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
"""Iterations in the history before any value counts as a spike. With fewer, a standard deviation means little."""
MIN_SPREAD = 1e-3
"""Lower bound of the standard deviation, as a share of the mean. It keeps equal values from making a spike."""


def apply_update(optimizer: Any, clip_grad: float, veto: Callable[[float], bool]) -> tuple[bool, float]:
    """Apply the update, and return (whether it was applied, global gradient norm before clipping) on every rank.

    `optimizer` is megatron-core's ChainedOptimizer after the backward pass. `veto` gets the norm and returns whether to
    leave the update out.
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
    """Return the norm of all gradients, over all ranks, with one read from the device."""
    (part,) = optimizer.chained_optimizers
    gradients = part.get_main_grads_for_grad_norm()
    if gradients:
        squared = torch.stack(torch._foreach_norm(gradients)).square().sum()
    else:
        squared = torch.zeros((), device=device())
    torch.distributed.all_reduce(squared, group=part.get_grad_stats_parallel_group())
    return float(squared.item() ** 0.5)


def _clip(optimizer: Any, limit: float, norm: float) -> None:
    """Scale the gradients down to the norm `limit`: inside our own Adam, which saves a pass over memory, or before."""
    for part in optimizer.chained_optimizers:
        parameters = [] if getattr(part, "is_stub_optimizer", False) else part.get_parameters()
        if not parameters:
            continue
        if isinstance(part.optimizer, FusedLayoutAdam):
            part.optimizer.gradient_divisor = max(1.0, (norm + 1e-6) / limit)
        else:
            clip_grad_by_total_norm_fp32(parameters, max_norm=limit, total_norm=norm)


class DivergedError(ValueError):
    """Training gives no finite loss or gradient any more."""


class NothingLearnedError(ValueError):
    """The run ends, and no update was ever applied."""


class Divergence:
    """Counts the iterations in a row whose loss or gradient norm is not finite."""

    def __init__(self, limit: int) -> None:
        """`limit`: number of such iterations that ends the run; 0 = never."""
        self.limit, self.count = limit, 0

    def check(self, iteration: int, loss: float, grad_norm: float) -> None:
        """Count this iteration. Raises DivergedError at the limit: the weights no longer change, so neither would the
        next iterations.
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
    """Return whether `value` is more than `sigma` standard deviations above the mean of the recent `history`.

    The history includes spikes. When the level has changed for good, new values stop being spikes after a while.
    """
    if len(history) < MIN_HISTORY:
        return False
    mean = statistics.fmean(history)
    return value > mean + sigma * max(statistics.pstdev(history), MIN_SPREAD * abs(mean))
