"""How pipeline stages exchange messages."""

from __future__ import annotations

import pytest

from megatron_train.parallel.schedule import message_exchange
from pretokenizer.config.yaml_config import ConfigError


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


def test_rows_of_different_lengths_are_refused_where_batched_messages_would_hang() -> None:
    with pytest.raises(ConfigError, match="give --packing"):
        message_exchange(4, 2, nccl=True, variable_lengths=True)
    assert message_exchange(4, 2, nccl=False, variable_lengths=True) == "overlapped"
    assert message_exchange(2, 2, nccl=True, variable_lengths=True) == "overlapped"
    assert message_exchange(4, 1, nccl=True, variable_lengths=True) == "batched"
