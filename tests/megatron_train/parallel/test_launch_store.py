"""Ranks that arrive in any order agree on a new name, whatever an earlier attempt left in the store."""

from __future__ import annotations

import threading
import time

import pytest
import torch.distributed as dist

from megatron_train.parallel.launch_store import agree_on_attempt


def attempt(store: dist.Store, order: list[int]) -> set[str]:
    """Return the names on which three ranks agree that start one after another."""
    names: list[str] = []

    def come(rank: int) -> None:
        names.append(agree_on_attempt(store, rank, 3, 20.0))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in order]
    for thread in threads:
        thread.start()
        time.sleep(0.06)
    for thread in threads:
        thread.join()
    assert len(names) == 3
    return set(names)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_every_attempt_has_a_name_of_its_own(order: list[int]) -> None:
    store = dist.HashStore()
    names = [attempt(store, order) for _ in range(3)]
    assert [len(each) for each in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


def test_an_abandoned_attempt_does_not_block_the_next() -> None:
    store = dist.HashStore()
    for rank in (0, 1):  # the third rank never arrives
        with pytest.raises(TimeoutError, match="did not connect within --distributed_timeout_minutes"):
            agree_on_attempt(store, rank, 3, 0.1)
    assert len(attempt(store, [1, 2, 0])) == 1


def test_one_process_waits_for_no_other() -> None:
    assert agree_on_attempt(dist.HashStore(), 0, 1, 0.1)
