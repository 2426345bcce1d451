"""Lock a --save folder, so that only one run at a time writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from megatron_train.checkpoint.folder import CheckpointError

LOCK_FILE = ".run.lock"


@contextlib.contextmanager
def run_lock(save: str | None) -> Iterator[None]:
    """Hold the lock on the folder `save` while the block runs; without a folder, there is no lock.

    All ranks enter the block together, and rank 0 takes the lock. The lock is released when the process ends, even if
    it is killed. A file system without locks gives no protection. Raises CheckpointError on every rank when another run
    holds the lock; the message names its host and process.
    """
    if save is None:
        yield
        return
    descriptor, problem = -1, None
    if dist.get_rank() == 0:
        Path(save).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(Path(save) / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        problem = _take(descriptor, save)
    verdict = [problem]
    dist.broadcast_object_list(verdict, src=0)
    try:
        if verdict[0]:
            raise CheckpointError(verdict[0])
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _take(descriptor: int, save: str) -> str | None:
    """Lock the open lock file without waiting, and write the id and host of this process into it.

    Returns None, or an error message when another process holds the lock. A file system without locks is not an error.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 500).decode(errors="replace").strip() or "another process"
        return f"--save {save}: {holder} is training into it; wait until that run ends, or give another --save"
    except OSError:  # this file system has no locks
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on host {socket.gethostname()}\n".encode())
    return None
