"""The optimizer step, taken only when it does no harm: finite gradients, and on request no spike in loss or norm.

    applied, grad_norm = apply_update(optimizer, clip_grad=1.0, veto=lambda norm: is_spike(norm, history, sigma=6))

megatron-core checks for infinities in fp16 alone; in bf16 and fp32 one NaN would spoil every weight.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

MIN_HISTORY = 16
"""Iterations before anything is called a spike: below that a standard deviation means little."""
MIN_SPREAD = 1e-3
"""Of the mean, that a standard deviation is taken to be at least: equal values do not make the next one a spike."""


def apply_update(optimizer: Any, clip_grad: float, veto: Callable[[float], bool]) -> tuple[bool, float]:
    """(was the update applied, global gradient norm before clipping). The same on every rank.

    `optimizer` is megatron-core's ChainedOptimizer after the backward pass; `veto` is asked with the norm.
    """
    if optimizer.prepare_grads():  # fp16 overflow; the loss scale has been lowered
        return False, math.nan
    grad_norm = float(optimizer.get_grad_norm())
    if not math.isfinite(grad_norm) or veto(grad_norm):
        return False, grad_norm
    if clip_grad > 0:
        for part in optimizer.chained_optimizers:
            parameters = [] if getattr(part, "is_stub_optimizer", False) else part.get_parameters()
            if parameters:
                clip_grad_by_total_norm_fp32(parameters, max_norm=clip_grad, total_norm=grad_norm)
    return bool(optimizer.step_with_ready_grads()), grad_norm


class DivergedError(ValueError):
    """Nothing finite comes out of training any more."""


def count_not_finite(before: int, iteration: int, loss: float, grad_norm: float, limit: int) -> int:
    """Iterations in a row, `before` this one and with it, that were not finite.

    Raises DivergedError at `limit` (0 = never): weights do not change any more, so neither would what comes next.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return 0
    if before + 1 == limit:
        raise DivergedError(
            f"{limit} iterations in a row up to {iteration} were not finite (loss {loss}, gradient norm {grad_norm}): "
            "none was applied; start again from an older checkpoint (--load_iters) with a lower --lr, with --bf16 in "
            "place of --fp16, or without the data read there (--skip_iters); --max_not_finite allows more"
        )
    return before + 1


def is_spike(value: float, history: Sequence[float], sigma: float) -> bool:
    """Is `value` more than `sigma` standard deviations above the mean of `history`, the recent iterations?

    Spikes belong to the history too: when the level has changed for good, training goes on after a while.
    """
    if len(history) < MIN_HISTORY:
        return False
    mean = statistics.fmean(history)
    return value > mean + sigma * max(statistics.pstdev(history), MIN_SPREAD * abs(mean))
