"""How pipeline stages exchange messages."""

from __future__ import annotations

import pytest

from megatron_train.parallel.schedule import message_exchange


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
