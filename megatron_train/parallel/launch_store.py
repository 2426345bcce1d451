"""Open a rendezvous store that is private to this launch attempt.

    dist.init_process_group(backend, store=fresh_store(timeout), rank=rank, world_size=world)

When torchrun (torch 2.13) restarts failed processes, it gives them the store of the failed attempt. A rank that starts
early then finds the addresses of dead processes and cannot connect. Here rank 0 gives each attempt a random name.
All ranks agree on the name before they write anything else, and everything else is stored below that name.
"""

from __future__ import annotations

import datetime
import os
import time
import uuid

import torch.distributed as dist

POLL_SECONDS = 0.02


def fresh_store(timeout: datetime.timedelta) -> dist.Store:
    """Return the launcher's rendezvous store, with all keys under a prefix that only this launch attempt uses.

    Raises TimeoutError when a rank does not start within `timeout`.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = next(dist.rendezvous("env://", rank, world, timeout=timeout))[0]
    return dist.PrefixStore(agree_on_attempt(store, rank, world, timeout.total_seconds()), store)


def agree_on_attempt(store: dist.Store, rank: int, world: int, seconds: float) -> str:
    """Return a random name for this launch attempt, the same on all ranks, to keep its keys apart from earlier ones.

    Rank 0 proposes a name, each other rank answers with a random word, and rank 0 repeats all words. A rank accepts the
    name once rank 0 has repeated its word, so leftovers of an earlier attempt are never accepted. Raises TimeoutError
    when a rank does not answer within `seconds`.
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
        raise TimeoutError(f"{whom} did not connect within --distributed_timeout_minutes; check that it started")
    time.sleep(POLL_SECONDS)
