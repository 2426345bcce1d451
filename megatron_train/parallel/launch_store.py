"""A store in which no earlier attempt of the same launch has left anything.

    dist.init_process_group(backend, store=fresh_store(timeout), rank=rank, world_size=world)

torchrun (torch 2.13) gives the processes that it restarts the very store of those that failed, so that a rank which is
early finds the addresses of the dead and connects to nobody. Here rank 0 names each attempt at random and all ranks
agree on the name before anything else is written; the rest lies below it.
"""

from __future__ import annotations

import datetime
import os
import time
import uuid

import torch.distributed as dist

POLL_SECONDS = 0.02


def fresh_store(timeout: datetime.timedelta) -> dist.Store:
    """The store that the environment names (torchrun's or Slurm's variables), below a name of this attempt's own.

    Raises TimeoutError when not all ranks come.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = next(dist.rendezvous("env://", rank, world, timeout=timeout))[0]
    return dist.PrefixStore(agree_on_attempt(store, rank, world, timeout.total_seconds()), store)


def agree_on_attempt(store: dist.Store, rank: int, world: int, seconds: float) -> str:
    """A name for this attempt, the same on all ranks.

    Each rank answers rank 0's name with a word of its own, and goes on when rank 0 repeats that word: what an earlier
    attempt left cannot hold it.
    """
    word, deadline = uuid.uuid4().hex, time.monotonic() + seconds
    if rank == 0:
        store.set("attempt", word)
        words = [_get(store, f"{word}/{other}", deadline) for other in range(1, world)]
        store.set(f"{word}/all", " ".join(words))
        return word
    while True:
        attempt = _get(store, "attempt", deadline)
        store.set(f"{attempt}/{rank}", word)
        while store.get("attempt").decode() == attempt:
            if store.check([f"{attempt}/all"]) and word in store.get(f"{attempt}/all").decode():
                return attempt
            _wait(deadline, "rank 0")


def _get(store: dist.Store, key: str, deadline: float) -> str:
    while not store.check([key]):
        _wait(deadline, f"rank {key.rpartition('/')[2]}" if "/" in key else "rank 0")
    return str(store.get(key).decode())


def _wait(deadline: float, whom: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{whom} did not come within --distributed_timeout_minutes; did it start?")
    time.sleep(POLL_SECONDS)
