"""The watch ends a run when one of two ranks stops. The process groups' own timeouts are too long to act here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import yaml

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.settings import Logging
from megatron_train.parallel.hang_watch import HangWatch, stacks
from megatron_train.parallel.stop_request import StopRequest
from megatron_train.report.phases import PhaseTimer
from tests.conftest import toy_documents, write_shard
from tests.forked import free_port
from tests.megatron_train.models import LLAMA
from tests.paths import ROOT


def slow_rank() -> list[str]:
    """Rank 1 keeps rank 0 waiting, but lives. Return the error of each rank's watch, which must be none."""
    timer, ended = PhaseTimer(), []
    with HangWatch(timer, timeout_minutes=1.5 / 60, end=ended.append) as watch:
        timer.start(3, "read")
        if dist.get_rank() == 1:
            time.sleep(1.5 * watch.limit)
        timer.enter("forward_backward")
        dist.barrier()
    return ended


def stopped_rank() -> list[str]:
    """Rank 1 stops itself, and rank 0 wakes it after its own watch has ended. Return the error of each rank's watch."""
    timer, ended = PhaseTimer(), []
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, os.getpid())
    with HangWatch(timer, timeout_minutes=2 / 60, end=ended.append) as watch:
        timer.start(8, "read")
        time.sleep(4 * watch.tick)
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while dist.get_rank() == 0 and not ended and time.monotonic() < deadline:
            timer.enter("forward_backward")
            time.sleep(watch.tick)
        if dist.get_rank() == 0:
            os.kill(everyone[1], signal.SIGCONT)
        dist.barrier()
    return ended


def failed_rank() -> list[str]:
    """Rank 1 fails. Return the error of each rank's watch, which comes long before the timeout."""
    ended: list[str] = []
    try:
        with HangWatch(PhaseTimer(), timeout_minutes=10 / 60, end=ended.append) as watch:
            if dist.get_rank() == 1:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            deadline = time.monotonic() + 0.6 * watch.limit
            while not ended and time.monotonic() < deadline:
                time.sleep(watch.tick)
    except RuntimeError:
        pass
    dist.barrier()
    return ended


def signalled_rank() -> list[str]:
    """Rank 1 stops itself, and rank 0 gets SIGTERM. Return the error of each rank's watch, long before the timeout."""
    ended: list[str] = []
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, os.getpid())
    StopRequest(Logging(), train_iters=1000)
    with HangWatch(PhaseTimer(), timeout_minutes=10 / 60, end=ended.append) as watch:
        time.sleep(4 * watch.tick)
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 0.9 * watch.limit
            while not ended and time.monotonic() < deadline:
                time.sleep(watch.tick)
            os.kill(everyone[1], signal.SIGCONT)
        dist.barrier()
    return ended


def four_cases() -> tuple[list[str], ...]:
    return slow_rank(), failed_rank(), signalled_rank(), stopped_rank()


def test_a_slow_rank_is_a_warning_and_one_that_fails_or_stops_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    (slow, failed, signalled, stopped), (slow_there, failed_there, *_) = run_distributed(four_cases, 2, fresh=True)
    assert (slow, slow_there) == ([], [])
    assert failed == ["rank 1 failed: RuntimeError: CUDA error: an illegal memory access was encountered"]
    assert failed_there == []
    assert signalled[0].startswith("rank 1 has given no sign of life for ")
    error = capfd.readouterr().err
    assert "warning: rank 1 has been in iteration 3 (read) for 1 s" in error
    assert "  rank 1 is in iteration 3 (read)" in error
    assert "in slow_rank" in error
    assert stopped[0].startswith("rank 1 has given no sign of life for ")
    assert "last in iteration 8 (read): its process is stopped" in stopped[0]
    assert error.count(f"error: {stopped[0]}") == 1
    assert "rank 0, where its threads are:" in error
    assert "in stopped_rank" in error


def test_stacks_name_the_function() -> None:
    assert "rank 5, where its threads are:" in stacks(5)
    assert "in test_stacks_name_the_function" in stacks(5)


def write_run(folder: Path) -> Path:
    """Write data, model and settings of a tensor-parallel run without end, and return the path of its settings."""
    write_shard(folder / "toy", toy_documents(8))
    LLAMA.save(folder / "model.yaml")
    settings = {
        "model": str(folder / "model.yaml"),
        "train_data_path": [str(folder / "toy")],
        "save": str(folder / "save"),
        "seq_length": 48,
        "train_iters": 1000000,
        "log_interval": 1000,
        "distributed_timeout_minutes": 0.1,
        "tensor_model_parallel_size": 2,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder / "run.yaml"


def start_two_ranks(words: list[str]) -> list[subprocess.Popen[str]]:
    """Start a command once for each of two ranks, without torchrun. stderr is a pipe."""
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": 1}

    def start(rank: int) -> subprocess.Popen[str]:
        own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        return subprocess.Popen(
            words, cwd=ROOT, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    return [start(0), start(1)]


def test_a_run_with_a_stopped_rank_ends(tmp_path: Path) -> None:
    """A rank gets SIGSTOP during training, and the other one ends within the timeout and reports the reason.

    Without torchrun, rank 0 holds the store through which the ranks share their phases, which is the hardest case.
    """
    stopped = 0
    ranks = start_two_ranks([sys.executable, "-m", "megatron_train", "--config", str(write_run(tmp_path))])
    try:
        metrics, deadline = tmp_path / "save" / "metrics.jsonl", time.monotonic() + 120
        while not metrics.is_file() or metrics.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            assert ranks[0].poll() is None
            time.sleep(0.1)
        ranks[stopped].send_signal(signal.SIGSTOP)
        since = time.monotonic()
        live = ranks[1 - stopped]
        error = live.communicate(timeout=60)[1]
        assert live.returncode == 1
        assert f"error: rank {stopped} has given no sign of life for " in error
        assert ", last in iteration " in error
        assert f"rank {1 - stopped}, where its threads are:" in error
        assert "in train_step" in error or "in run" in error
        assert time.monotonic() - since < 25  # 6 s, and a margin for a busy machine
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
