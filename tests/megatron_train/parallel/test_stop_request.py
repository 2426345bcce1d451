from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from megatron_train.config.settings import Logging
from megatron_train.parallel import stop_request
from megatron_train.parallel.stop_request import SIGNALS, StopRequest, signal_received


@pytest.fixture
def handlers(one_rank: None) -> Iterator[None]:
    """Restore the signal handlers after a test of one rank."""
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop_after_the_iteration(number: signal.Signals, handlers: None) -> None:
    stop = StopRequest(Logging(), train_iters=1000)
    assert stop.due(1) is None
    assert not signal_received()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)  # torchrun repeats a Ctrl-C
    assert stop.due(2) == "signal received"
    assert signal_received()


def test_a_second_signal_ends_the_process(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    StopRequest(Logging(), train_iters=1000)
    os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(stop_request, "REPEAT_SECONDS", 0.0)
    kill = os.kill
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    kill(os.getpid(), signal.SIGINT)
    assert sent == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_exit_interval_stops_at_every_multiple_but_the_end(handlers: None) -> None:
    stop = StopRequest(Logging(exit_interval=5), train_iters=15)
    assert [iteration for iteration in range(1, 16) if stop.due(iteration)] == [5, 10]


def test_exit_duration_stops_once_the_time_is_up(handlers: None) -> None:
    assert StopRequest(Logging(exit_duration_in_mins=1000.0), train_iters=1000).due(1) is None
    stop = StopRequest(Logging(exit_duration_in_mins=0.0), train_iters=1000)
    assert stop.due(1) == "--exit_duration_in_mins 0.0 reached"


def test_exit_duration_counts_from_the_start_of_the_process(handlers: None) -> None:
    """The time includes importing torch and starting the process group."""
    import psutil

    age = (time.time() - psutil.Process().create_time()) / 60
    assert StopRequest(Logging(exit_duration_in_mins=age - 0.005), train_iters=1000).due(1) is not None
    assert StopRequest(Logging(exit_duration_in_mins=age + 5), train_iters=1000).due(1) is None
