"""Parts of a GPU report that end in every way a part can end. They import no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from benchmarks.gpu_parts.record import PartSkippedError, Record


def measures(record: Record, small: bool) -> None:
    record.row(item="device", value="NVIDIA H200")
    record.check("close enough", 0.5, 1.0)


def is_wrong(record: Record, small: bool) -> None:
    record.check("close enough", 0.5, 1.0)
    record.check("too far", float("nan"), 1.0)


def raises(record: Record, small: bool) -> None:
    record.row(speed=3.5)
    raise RuntimeError("out of luck\nand more")


def crashes(record: Record, small: bool) -> None:
    record.row(speed=4.5)
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(record: Record, small: bool) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record.row(child=child.pid)
    time.sleep(600)


def is_skipped(record: Record, small: bool) -> None:
    raise PartSkippedError("needs a second moon")
