"""What a stranger wrote may take some seconds and some memory, not more. (SHARED with trainer and converter)

    with bounded("template.jinja"):         # a chat template
        text = template.render(...)
    with limited_memory():                  # a pickle: five bytes of one can ask for 32 GB
        value = unpickler.load()

Bounds on memory hold on Linux, on time in a process's main thread there; elsewhere the sandbox has to do.
"""

import contextlib
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

SECONDS = 5.0
MEGABYTES = 1024
_STATUS = Path("/proc/self/statm")
_TURN = threading.RLock()


class BoundsError(ValueError):
    """Something took more time or memory than it may."""


@contextlib.contextmanager
def bounded(name: str) -> Iterator[None]:
    """The block may take SECONDS and MEGABYTES. Raises BoundsError with `name`, also for endless recursion."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise BoundsError(f"{name}: does not finish within {SECONDS:g} s; is there an endless loop in it?")

    if threading.current_thread() is not threading.main_thread() or sys.platform != "linux":
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with limited_memory():
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            yield
    except MemoryError:
        raise BoundsError(f"{name}: takes more than {MEGABYTES} MB of memory") from None
    except RecursionError:
        raise BoundsError(f"{name}: calls itself without end") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_memory(num_bytes: int = 0) -> Iterator[None]:
    """Inside, the process may take MEGABYTES more than it has, and `num_bytes` that are known to be needed; beyond that
    there is a MemoryError. Threads take turns.
    """
    if sys.platform != "linux":
        yield
        return
    with _TURN:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = int(_STATUS.read_text().split()[0]) * resource.getpagesize() + (MEGABYTES << 20) + num_bytes
        limit = limit if soft == resource.RLIM_INFINITY else min(soft, limit)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
