"""Print, as JSON, how a rank of two ends after each of the given errors.

    python -m tests.megatron_train.failing_ranks "ValueError('no such shard')" "RuntimeError('CUDA error')"

All ranks are forked from one process, because importing torch and megatron-core takes seconds.
"""

from __future__ import annotations

import builtins
import json
import os
import signal
import sys
import time
from typing import Any

from tests.forked import free_port, preload


def ending_of(error: BaseException) -> tuple[str, int, float]:
    """Return the stderr and the exit code of rank 1, which raises `error`, and the seconds from message to end."""
    port = free_port()
    begin, end = os.pipe()
    idle, failing = (fork_rank(rank, port, end, error) for rank in (0, 1))
    os.close(end)
    with os.fdopen(begin) as stream:
        text = stream.readline()
        since = time.monotonic()
        text += stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(failing, 0)[1])
    seconds = time.monotonic() - since
    os.kill(idle, signal.SIGKILL)
    os.waitpid(idle, 0)
    return text, code, seconds


def fork_rank(rank: int, port: int, stderr: int, error: BaseException) -> int:
    """Start one rank, and return its process id. Rank 1 writes to the file descriptor `stderr`."""
    if pid := os.fork():
        return pid
    import torch.distributed as dist

    from megatron_train import __main__ as command
    from megatron_train import train

    os.dup2(stderr if rank else os.open(os.devnull, os.O_WRONLY), 2)
    os.close(stderr)
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    train.train = lambda _: fail(error)
    dist.destroy_process_group = lambda *_: time.sleep(60)  # on NCCL this waits for the other ranks
    sys.exit(command.main(["--train_iters", "1", "--train_data_path", "d", "--model", "m"]))


def fail(error: BaseException) -> Any:
    """Raise `error` on rank 1 while rank 0 is busy and takes part in no collective."""
    import torch.distributed as dist

    from megatron_train.config.settings import Parallel
    from megatron_train.parallel.distributed import init_distributed

    init_distributed(Parallel(), seed=1)
    dist.barrier()
    if dist.get_rank() == 1:
        raise error
    time.sleep(60)


def main(errors: list[str]) -> None:
    os.environ.pop("TORCHELASTIC_ERROR_FILE", None)
    preload("trainer")
    parsed = (text.removesuffix(")").split("(", 1) for text in errors)
    print(json.dumps([ending_of(getattr(builtins, kind)(message.strip("'"))) for kind, message in parsed]))


if __name__ == "__main__":
    main(sys.argv[1:])
