"""Running what a stranger wrote, a chat template: for a few seconds and within some memory. (SHARED with the converter)

    with bounded("template.jinja"):
        text = template.render(...)

Both bounds hold on Linux in a process's main thread; elsewhere the sandbox of the template has to do.
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
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(_STATUS.read_text().split()[0]) * resource.getpagesize() + (MEGABYTES << 20)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        yield
    except MemoryError:
        raise BoundsError(f"{name}: takes more than {MEGABYTES} MB of memory") from None
    except RecursionError:
        raise BoundsError(f"{name}: calls itself without end") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
