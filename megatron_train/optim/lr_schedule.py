"""The learning rate of an iteration, as a pure function of the samples consumed before it, as in Megatron-LLM.

    >>> stage2 = LrSchedule(lr=1e-5, min_lr=1e-6, lr_warmup_iters=100)
    >>> [f"{learning_rate(stage2, n * 64, 64, 519):.5g}" for n in (0, 1, 50, 100, 200, 346, 519)]
    ['0', '1e-07', '5e-06', '1e-05', '8.7933e-06', '4.2838e-06', '1e-06']

With a warm-up, the first iteration uses lr(0) = 0, as Megatron-LLM does.
"""

from __future__ import annotations

import math

from megatron_train.config.settings import LrSchedule


def learning_rate(schedule: LrSchedule, consumed_samples: int, global_batch_size: int, train_iters: int) -> float:
    """Return the learning rate of the iteration that starts after `consumed_samples` training samples.

    The samples of skipped iterations must not be counted. The decay ends after `train_iters` iterations unless
    `schedule` sets lr_decay_iters.
    """
    warmup = schedule.lr_warmup_iters * global_batch_size
    decay = (schedule.lr_decay_iters or train_iters) * global_batch_size
    if warmup and consumed_samples <= warmup:
        return schedule.lr * _warmup_share(schedule.lr_warmup_style, consumed_samples, warmup, global_batch_size)
    if schedule.lr_decay_style == "constant":
        return schedule.lr
    if schedule.lr_decay_style == "inverse-square-root":
        start = max(warmup, 1)
        return max(schedule.min_lr, schedule.lr * math.sqrt(start) / math.sqrt(max(consumed_samples, start)))
    if consumed_samples > decay:
        return schedule.min_lr
    progress = (consumed_samples - warmup) / max(1, decay - warmup)
    share = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.lr_decay_style == "cosine" else 1 - progress
    return schedule.min_lr + share * (schedule.lr - schedule.min_lr)


def _warmup_share(style: str, consumed_samples: int, warmup: int, global_batch_size: int) -> float:
    if style == "linear":
        return consumed_samples / warmup
    iterations, warmup_iters = consumed_samples / global_batch_size, warmup / global_batch_size
    return math.log(iterations + 1) / math.log(max(2.0, warmup_iters)) if iterations + 1 < warmup_iters else 1.0
