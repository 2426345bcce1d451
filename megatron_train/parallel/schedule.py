"""Run the forward and backward passes of all micro-batches in megatron-core's pipeline schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from pretokenizer.config.yaml_config import ConfigError


def message_exchange(
    stages: int, chunks: int, nccl: bool, variable_lengths: bool = False
) -> Literal["batched", "overlapped"]:
    """Return how neighbouring pipeline stages exchange hidden states and their gradients.

    Batched messages are right unless 2 stages interleave several chunks: each stage is then both the previous and the
    next stage of the other, the two messages of a batch get mixed up, and gradients are wrong without an error.
    Interleaved stages therefore overlap single messages with computing. NCCL opens a communicator for each pair of
    stages that exchanges single messages. With more than 2 stages it opens them in varying order, which can hang
    (github.com/NVIDIA/Megatron-LM/pull/5240), so these stages batch their messages. Batched messages in turn hang when
    interleaved stages send the shape of each message first, as rows of `variable_lengths` need. Raises ConfigError when
    neither exchange is safe.

    >>> message_exchange(stages=2, chunks=2, nccl=True), message_exchange(stages=4, chunks=2, nccl=True)
    ('overlapped', 'batched')
    """
    if chunks == 1:
        return "batched"
    if not (nccl and stages > 2):
        return "overlapped"
    if variable_lengths:
        raise ConfigError(
            f"virtual_pipeline_model_parallel_size {chunks} with {stages} pipeline stages can hang on GPUs when rows "
            "have different lengths: give --packing, or leave virtual_pipeline_model_parallel_size out"
        )
    return "batched"


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
