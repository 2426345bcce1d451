"""How pipeline stages exchange messages."""

from __future__ import annotations

import pytest
import torch
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from megatron_train.parallel.schedule import KnownShapes, message_exchange, receive_order


@pytest.mark.parametrize(
    ("stages", "chunks", "nccl", "exchange"),
    [
        (1, 1, True, "batched"),
        (4, 1, True, "batched"),
        (4, 1, False, "batched"),
        (2, 2, True, "overlapped"),
        (2, 2, False, "overlapped"),
        (4, 2, False, "overlapped"),
        (3, 2, True, "batched"),
        (4, 5, True, "batched"),
    ],
)
def test_interleaved_stages_batch_their_messages_only_on_nccl_and_with_more_than_two(
    stages: int, chunks: int, nccl: bool, exchange: str
) -> None:
    assert message_exchange(stages, chunks, nccl) == exchange


@pytest.mark.parametrize(
    ("micro_batches", "chunks", "closes_the_ring", "order"),
    [
        (3, 1, False, [0, 1, 2]),
        (3, 1, True, []),  # the first of the stages without chunks receives nothing from the last one
        (5, 2, False, [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]),
        (5, 2, True, [0, 1, 2, 3, 4]),
        (2, 3, True, [0, 1, 0, 1]),
    ],
)
def test_a_stage_receives_micro_batches_in_the_order_of_the_schedule(
    micro_batches: int, chunks: int, closes_the_ring: bool, order: list[int]
) -> None:
    assert receive_order(micro_batches, chunks, 2, closes_the_ring) == order


def test_stages_take_the_shapes_of_messages_from_the_rows() -> None:
    """Padded rows pass the stages without a message about their shape, which the overridden method would send."""
    assert "_communicate_shapes" in vars(P2PCommunicator)
    exchange = object.__new__(KnownShapes)
    exchange._from_previous, exchange._from_next = iter([(5, 1, 8), (7, 1, 8)]), iter([(6, 1, 8)])
    tensor = torch.zeros(1)
    assert exchange._communicate_shapes(None, None, True, False) == ((5, 1, 8), None)
    assert exchange._communicate_shapes(tensor, tensor, True, True) == ((7, 1, 8), (6, 1, 8))
    assert exchange._communicate_shapes(tensor, None, False, False) == (None, None)
