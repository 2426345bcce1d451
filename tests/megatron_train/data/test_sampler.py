from __future__ import annotations

import pytest

from megatron_train.data.sampler import micro_batch_indices


def test_two_ranks_take_alternate_runs() -> None:
    assert micro_batch_indices(8, 2, 2, dp_rank=0, dp_size=2) == [range(8, 10), range(12, 14)]
    assert micro_batch_indices(8, 2, 2, dp_rank=1, dp_size=2) == [range(10, 12), range(14, 16)]


@pytest.mark.parametrize(("micro_batch_size", "dp_size"), [(1, 1), (2, 1), (12, 1), (1, 3), (2, 3), (4, 3), (1, 12)])
def test_the_global_batch_is_the_same_in_any_layout(micro_batch_size: int, dp_size: int) -> None:
    number = 12 // (micro_batch_size * dp_size)
    parts = [micro_batch_indices(24, number, micro_batch_size, rank, dp_size) for rank in range(dp_size)]
    assert sorted(i for part in parts for run in part for i in run) == list(range(24, 36))
