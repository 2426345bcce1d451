"""Read hostile files: code in pickles, bombs, endless nesting, wrong offsets, templates that never end.

    python -m tests.faults.hostile                 # every case, each in a process of its own
    python -m tests.faults.hostile --only pickle

Each file must be refused with a message that names it, or read within bounds: no code runs, no file appears elsewhere,
reading takes at most 1.5 GB of memory and 30 seconds, and there is no traceback.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.hostile_data import data_cases
from tests.faults.hostile_weights import weight_cases
from tests.faults.tally import Tally

MAX_MEGABYTES = 1500
MAX_SECONDS = 30.0
MAX_ADDRESSES = 12 << 30
"""Limit of a case's address space in bytes, which protects the machine. torch alone maps several GB."""
MARKER = "owned"
"""Name of the file that the hostile code would create."""


def run_case(read: Callable[[Path], str | None], folder: Path, may_read: bool) -> list[str]:
    """Write the hostile files of a case in `folder`, read them in a fork, and return the problems."""
    report, marker = folder / "report", folder / MARKER
    pid = os.fork()
    if pid == 0:
        _in_child(read, folder, report, may_read)
    deadline = time.monotonic() + MAX_SECONDS
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return [f"took more than {MAX_SECONDS:.0f} s"]
        time.sleep(0.005)
    problems = []
    if marker.exists():
        problems.append("its code ran")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if (grown := (usage.ru_maxrss - before) >> 10) > MAX_MEGABYTES:
        problems.append(f"took {grown} MB of memory")
    if not report.exists():
        return [*problems, f"ended by {os.waitstatus_to_exitcode(status)} without a word"]
    said = report.read_text()
    return problems + ([said.removeprefix("WRONG ")] if said.startswith("WRONG ") else [])


def _in_child(read: Callable[[Path], str | None], folder: Path, report: Path, may_read: bool) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESSES, MAX_ADDRESSES))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    os.chdir(folder)
    try:
        name = read(folder)
        said = "fine" if may_read else f"WRONG read without a word ({name or 'no result'})"
    except (ValueError, OSError) as error:
        text = str(error)
        named = str(folder) in text or any(path.stem in text for path in folder.rglob("*"))
        said = "fine" if named else f"WRONG no file is named: {type(error).__name__}: {text[:300]}"
    except BaseException as error:
        said = f"WRONG a traceback: {type(error).__name__}: {str(error)[:300]}"
    report.write_text(said)
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th case")
    parser.add_argument("--seed", type=int, default=0, help="of no effect: the cases are fixed")
    given = parser.parse_args(arguments)
    tally = Tally("hostile", given.seed)
    for kind, cases in {**data_cases(), **weight_cases()}.items():
        problems, count = [], 0
        for name, (read, may_read) in list(cases.items())[:: given.every]:
            if given.only not in f"{kind} {name}":
                continue
            folder = Path(tempfile.mkdtemp())
            problems += [f"{name}: {problem}" for problem in run_case(read, folder, may_read)]
            shutil.rmtree(folder)
            count += 1
        if count:
            tally.add(kind, count, problems)
    return tally.close()


if __name__ == "__main__":
    sys.exit(main())
