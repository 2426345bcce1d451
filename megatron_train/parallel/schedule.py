"""Run the forward and backward passes of all micro-batches in megatron-core's pipeline schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_schedule_table
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.utils import get_model_config
from torch import Tensor

Shape = tuple[int, int, int]
"""Positions on this rank, rows and hidden size of the hidden states of a micro-batch."""
PROCESS_GROUPS = ["tp", "cp", "embd", "pos_embd", "pp", "dp_cp"]
"""Groups that megatron-core's schedules need, by their names in a ProcessGroupCollection."""


def message_exchange(stages: int, chunks: int, nccl: bool) -> Literal["batched", "overlapped"]:
    """Return how neighbouring pipeline stages exchange hidden states and their gradients.

    Batched messages are right unless 2 stages interleave several chunks: each stage is then both the previous and the
    next stage of the other, the two messages of a batch get mixed up, and gradients are wrong without an error.
    Interleaved stages therefore overlap single messages with computing. NCCL opens a communicator for each pair of
    stages that exchanges single messages. With more than 2 stages it opens them in varying order, which can hang
    (github.com/NVIDIA/Megatron-LM/pull/5240), so these stages batch their messages.

    >>> message_exchange(stages=2, chunks=2, nccl=True), message_exchange(stages=4, chunks=2, nccl=True)
    ('overlapped', 'batched')
    """
    return "batched" if chunks == 1 or (nccl and stages > 2) else "overlapped"


class KnownShapes(P2PCommunicator):
    """Exchanges messages between pipeline stages without sending the shape of each message first.

    Padded micro-batches differ in length. megatron-core sends every shape in a message of its own, and waits for the
    GPU to read it. Here every stage has read the same rows, so it knows the shapes.
    """

    def __init__(self, config: Any, from_previous: Sequence[Shape], from_next: Sequence[Shape]) -> None:
        """Expect tensors of these shapes, in the order in which the neighbouring stages send them."""
        super().__init__(parallel_state.get_pipeline_model_parallel_group(), config)
        self._from_previous, self._from_next = iter(from_previous), iter(from_next)

    def _communicate_shapes(
        self, tensor_send_next: Any, tensor_send_prev: Any, recv_prev: bool, recv_next: bool
    ) -> tuple[Shape | None, Shape | None]:
        return next(self._from_previous) if recv_prev else None, next(self._from_next) if recv_next else None


def receive_order(num_microbatches: int, chunks: int, group_size: int, closes_the_ring: bool) -> list[int]:
    """Return the number of the micro-batch of each message that a stage receives from one neighbour, in order.

    Forward and backward passes have the same order. Interleaved stages run `group_size` micro-batches through one chunk
    before the next chunk. `closes_the_ring` is true for messages of the last stage to the first one and of the first
    stage to the last one, which exist only between two chunks.

    >>> receive_order(3, chunks=2, group_size=2, closes_the_ring=False)
    [0, 1, 0, 1, 2, 2]
    >>> receive_order(3, chunks=2, group_size=2, closes_the_ring=True)
    [0, 1, 2]
    """
    table: list[tuple[int, int]] = get_schedule_table(num_microbatches, chunks, group_size)
    return [number for number, chunk in table if not closes_the_ring or chunk < chunks - 1]


def run_schedule(
    chunks: list[Any], batches: Sequence[Any], forward_step: Callable[..., Any], forward_only: bool
) -> list[dict[str, Tensor]]:
    """Run the forward passes and, unless `forward_only`, the backward passes of `batches`, this rank's micro-batches.

    Return one dict per micro-batch, the values that the loss function of `forward_step` reports, on the last pipeline
    stage, and [] on the others. After the backward passes, gradients are reduced over the ranks. megatron-core's
    schedule is plain, 1F1B or interleaved, as the layout requires.
    """
    iterators = [iter(batches) for _ in chunks]
    config = get_model_config(chunks[0])
    outputs: list[dict[str, Tensor]] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=chunks if len(chunks) > 1 else chunks[0],
        num_microbatches=len(batches),
        seq_length=batches[0].tokens.shape[1],
        micro_batch_size=batches[0].tokens.shape[0],
        forward_only=forward_only,
        **(_with_known_shapes(config, batches, len(chunks)) if config.variable_seq_lengths else {}),
    )
    return outputs


def _with_known_shapes(config: Any, batches: Sequence[Any], num_chunks: int) -> dict[str, Any]:
    """Return the arguments that make megatron-core's schedule exchange padded micro-batches by their known shapes."""
    ranks = parallel_state.get_tensor_model_parallel_world_size() if config.sequence_parallel else 1
    shapes = [(each.tokens.shape[1] // ranks, each.tokens.shape[0], config.hidden_size) for each in batches]
    order = partial(receive_order, len(batches), num_chunks, config.microbatch_group_size_per_vp_stage)
    from_previous = [shapes[number] for number in order(parallel_state.is_pipeline_first_stage())]
    from_next = [shapes[number] for number in order(parallel_state.is_pipeline_last_stage())]
    groups = ProcessGroupCollection.use_mpu_process_groups(PROCESS_GROUPS)
    return {"p2p_communicator": KnownShapes(config, from_previous, from_next), "pg_collection": groups}
