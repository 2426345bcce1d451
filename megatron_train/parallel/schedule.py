"""Run the forward and backward passes of all micro-batches in megatron-core's pipeline schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor


def run_schedule(
    chunks: list[Any], batches: Sequence[Any], forward_step: Callable[..., Any], forward_only: bool
) -> list[dict[str, Tensor]]:
    """Run the forward passes and, unless `forward_only`, the backward passes of `batches`, this rank's micro-batches.

    Return one dict per micro-batch, the values that the loss function of `forward_step` reports, on the last pipeline
    stage, and [] on the others. After the backward passes, gradients are reduced over the ranks. megatron-core's
    schedule is plain, 1F1B or interleaved, as the layout requires.
    """
    iterators = [iter(batches) for _ in chunks]
    outputs: list[dict[str, Tensor]] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=chunks if len(chunks) > 1 else chunks[0],
        num_microbatches=len(batches),
        seq_length=batches[0].tokens.shape[1],
        micro_batch_size=batches[0].tokens.shape[0],
        forward_only=forward_only,
    )
    return outputs
