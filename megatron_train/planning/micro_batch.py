"""Advise the micro-batch size of a run: the size with the shortest estimated iteration of those that fit."""

from __future__ import annotations

from dataclasses import replace

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.planning.devices import Device
from megatron_train.planning.suggest import Suggestion, judge
from megatron_train.planning.workload import DataFacts

MAX_MICRO_BATCH = 16
"""The largest micro-batch size that `plan` advises."""


def advise_micro_batch(
    config: TrainConfig, model: ModelConfig, facts: DataFacts | None, layout: ParallelLayout, device: Device, mfu: float
) -> Suggestion | None:
    """Return the micro-batch size with the shortest estimated iteration, with its peak memory and time.

    All else, such as `layout` and the global batch, stays. The sizes are the powers of two up to MAX_MICRO_BATCH that
    divide the rows of a data-parallel rank per iteration. `facts` is None when nothing is known about the data, and
    `mfu` is the expected share of the GPU's peak FLOP/s. Return None when no size fits into the memory of `device`.
    """
    rows = layout.global_batch_size(config.batch) // layout.dp
    found = []
    for size in (2**n for n in range(MAX_MICRO_BATCH.bit_length()) if rows % 2**n == 0):
        batch = replace(config.batch, micro_batch_size=size, global_batch_size=rows * layout.dp)
        if layout.vpp > 1 and rows // size % layout.pp:
            continue  # the interleaved schedule takes whole rounds of the stages
        found.append(judge(replace(config, batch=batch), model, facts, layout, device, mfu))
    return min((one for one in found if one), key=lambda one: (one.seconds, one.gib), default=None)
