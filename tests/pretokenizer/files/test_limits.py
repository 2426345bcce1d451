"""A block that exceeds a time or memory limit ends with an error, and the limits end with the block."""

import pickle
import resource
import signal
import sys
import time

import pytest

from pretokenizer.files import limits as bounded_module
from pretokenizer.files.limits import BoundsError, bounded, limited_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are set on Linux alone")


def test_an_endless_loop_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_module, "SECONDS", 0.05)
    with pytest.raises(BoundsError, match=r"x\.jinja: does not finish within 0\.05 s"), bounded("x.jinja"):
        while True:
            pass
    time.sleep(0.1)  # no alarm is pending
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_endless_memory_and_recursion_are_stopped() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with (
        pytest.raises(BoundsError, match="x: takes more than 1024 MB"),
        bounded("x"),
    ):
        bytes(3 << 30)

    def call() -> None:
        call()

    with pytest.raises(BoundsError, match="x: calls itself without end"), bounded("x"):
        call()
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_pickle_that_asks_for_32_gb_is_refused() -> None:
    with pytest.raises(MemoryError), limited_memory():
        pickle.loads(b"\x80\x02Nr\xff\xff\xff\x7f.")  # noqa: S301 - stores None at place 2^31 of the memo


def test_memory_known_to_be_needed_is_allowed() -> None:
    with limited_memory(2 << 30):
        assert len(bytes(2 << 30)) == 2 << 30
