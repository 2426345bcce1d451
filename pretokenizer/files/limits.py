"""Run untrusted templates and pickles under time and memory limits. (SHARED)

    with bounded("template.jinja"):         # a chat template
        text = template.render(...)
    with limited_memory():                  # a pickle; five bytes of it can ask for 32 GB
        value = unpickler.load()

The limit on time counts CPU time, so that the result does not depend on how busy the machine is. The memory limit works
on Linux only, and the time limit only in the main thread of a process on Linux. Elsewhere no limit applies, and the
sandbox of templates is the only protection.
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
"""Limit on the CPU time that a `bounded` block may take, in seconds."""
MEGABYTES = 1024
"""Memory that a block may allocate in addition to the memory that the process has, in MiB."""
_STATUS = Path("/proc/self/statm")
_TURN = threading.RLock()


class BoundsError(ValueError):
    """Untrusted code exceeded its time or memory limit."""


@contextlib.contextmanager
def bounded(name: str) -> Iterator[None]:
    """Limit the block to SECONDS of CPU time and MEGABYTES of additional memory.

    Raises BoundsError naming `name` when the block exceeds a limit or recurses without end. Outside the main thread,
    and on systems other than Linux, the block runs without limits.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise BoundsError(f"{name}: does not finish within {SECONDS:g} s of CPU time; look for an endless loop in it")

    if threading.current_thread() is not threading.main_thread() or sys.platform != "linux":
        yield
        return
    before = signal.signal(signal.SIGPROF, stop)
    try:
        with limited_memory():
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            yield
    except MemoryError:
        raise BoundsError(f"{name}: takes more than {MEGABYTES} MB of memory") from None
    except RecursionError:
        raise BoundsError(f"{name}: calls itself without end") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def limited_memory(num_bytes: int = 0) -> Iterator[None]:
    """Limit the memory that the process can allocate within the block to MEGABYTES plus `num_bytes`.

    `num_bytes` is the memory that the block is known to need. Beyond the limit, allocations raise MemoryError. Only one
    thread can be in the block at a time, because the limit applies to the whole process. On systems other than Linux
    there is no limit.
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
