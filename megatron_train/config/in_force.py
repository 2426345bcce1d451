"""Settings in force: fill in the settings whose default depends on the checkpoint, the ranks or the data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig


def with_batch_size(config: TrainConfig, layout: ParallelLayout, stored: dict[str, Any]) -> TrainConfig:
    """Set `global_batch_size`: the given one, else that of the resumed checkpoint, else one micro-batch per rank.

    `stored` holds the settings of the checkpoint; it is empty for a new run.
    """
    batch = config.batch
    size = batch.global_batch_size or stored.get("global_batch_size") or layout.global_batch_size(batch)
    return replace(config, batch=replace(batch, global_batch_size=size))


def with_iterations(config: TrainConfig, layout: ParallelLayout, rows_per_epoch: float) -> TrainConfig:
    """Set `train_iters`: the given number, else enough for `train_epochs`, which is 1 by default."""
    batch = config.batch
    if batch.train_iters:
        return config
    iterations = math.ceil((batch.train_epochs or 1) * rows_per_epoch / layout.global_batch_size(batch))
    return replace(config, batch=replace(batch, train_iters=iterations))
