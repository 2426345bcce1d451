"""Fill in the settings whose default depends on the checkpoint, the ranks or the data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig


def with_batch_size(config: TrainConfig, layout: ParallelLayout, stored: dict[str, Any]) -> TrainConfig:
    """Return the config with `global_batch_size` filled in.

    It is the given one, else the resumed checkpoint's, else one micro-batch per data-parallel rank. `stored` holds the
    settings of the checkpoint, and is empty for a new run.
    """
    batch = config.batch
    size = batch.global_batch_size or stored.get("global_batch_size") or layout.global_batch_size(batch)
    return replace(config, batch=replace(batch, global_batch_size=size))


def with_iterations(
    config: TrainConfig, layout: ParallelLayout, rows_per_epoch: float, iteration: int = 0, consumed: int = 0
) -> TrainConfig:
    """Return the config with `train_iters` filled in: the given number, else enough for `train_epochs` (default 1).

    An epoch has `rows_per_epoch` samples. A resumed run has done `iteration` iterations and consumed `consumed`
    samples, perhaps with another batch size. So the further iterations follow from the remaining samples alone.
    """
    batch = config.batch
    if batch.train_iters:
        return config
    left = max(0.0, (batch.train_epochs or 1) * rows_per_epoch - consumed)
    iterations = iteration + math.ceil(left / layout.global_batch_size(batch))
    return replace(config, batch=replace(batch, train_iters=iterations))
