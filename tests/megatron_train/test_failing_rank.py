"""A failing rank reports its error before it ends, and ends without a collective, because others may be waiting."""

from __future__ import annotations

import sys
import time

from megatron_train.__main__ import set_cuda_defaults
from tests.distributed import start_ranks

PROGRAM = """
import sys, time
import torch.distributed as dist
import megatron_train.__main__ as command, megatron_train.train as train

def fail(_):
    from megatron_train.parallel.distributed import init_distributed
    from megatron_train.config.settings import Parallel
    init_distributed(Parallel(), seed=1)
    dist.barrier()
    if dist.get_rank() == 1:
        raise {error}
    time.sleep(2)  # this rank is busy, and would take part in no collective

train.train = fail
dist.destroy_process_group = lambda *_: time.sleep(60)  # on NCCL this waits for the other ranks
sys.exit(command.main(["--train_iters", "1", "--train_data_path", "d", "--model", "m"]))
"""


def test_cuda_defaults_leave_the_users_settings_alone() -> None:
    fresh: dict[str, str] = {}
    set_cuda_defaults(fresh)
    assert fresh == {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    own = {"CUDA_DEVICE_MAX_CONNECTIONS": "32", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}
    kept = dict(own)
    set_cuda_defaults(kept)
    assert kept == own


def failure_of(error: str) -> tuple[str, int, float]:
    """Return the stderr, the exit code and the seconds from the message to the end of a rank that raises `error`."""
    ranks = start_ranks([sys.executable, "-W", "ignore", "-c", PROGRAM.format(error=error)])
    try:
        stream = ranks[1].stderr
        assert stream is not None
        text = stream.readline()
        since = time.monotonic()
        code = ranks[1].wait(timeout=30)
        return text + stream.read(), code, time.monotonic() - since
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def test_a_user_error_is_told_and_the_process_ends_at_once() -> None:
    text, code, seconds = failure_of("ValueError('d-text.idx: no such shard')")
    assert text == "error: rank 1: d-text.idx: no such shard\n"
    assert code == 1
    assert seconds < 2


def test_an_error_in_the_program_shows_its_traceback_and_the_process_ends_at_once() -> None:
    text, code, seconds = failure_of("RuntimeError('CUDA error: out of memory')")
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("RuntimeError: CUDA error: out of memory\n")
    assert code == 1
    assert seconds < 2


def test_nccls_words_for_a_lost_rank_are_known() -> None:
    text, code, _ = failure_of("RuntimeError('NCCL error: remote process exited or there was a network error')")
    assert text == "warning: rank 1 lost its connection to another rank, whose own message says why\n"
    assert code == 1
