"""Full, missing and read-only disks and missing permissions each give a clear error and lose nothing.

    python -m tests.faults.disk --runs 8 --seed 1        # full disks of random sizes, and the other cases

A small tmpfs gives real ENOSPC errors, so this part needs root on Linux. Without root, it prints a line and does
nothing. In each case, the command must end with an error that names a file, without a traceback, and keep earlier
results intact. Once there is enough space, the same command must give the bytes of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.kill import PATIENCE_SECONDS
from tests.faults.kill_targets import TARGETS, Target
from tests.faults.tally import Tally
from tests.forked import LOG, Run, launch, preload

EXAMPLES = {"pretokenizer": (0, 2), "trainer": (0, 1), "converter": (0, 1)}
"""The variants of each program that run on a full disk."""


class Disk:
    """A tmpfs of a given size in bytes, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, num_bytes: int) -> None:
        self.path.mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={max(num_bytes, 1 << 16)}", "tmpfs", str(self.path))

    def remount(self, options: str) -> None:
        _run("mount", "-o", f"remount,{options}", str(self.path))

    def unmount(self) -> None:
        """Unmount at once, even while a process uses the disk."""
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def is_possible() -> bool:
    """Return whether a tmpfs can be mounted here."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "disk")
        try:
            disk.mount(1 << 20)
        except subprocess.CalledProcessError:
            return False
        disk.unmount()
    return True


@contextmanager
def mounted(path: Path, num_bytes: int) -> Iterator[Disk]:
    disk = Disk(path)
    disk.mount(num_bytes)
    try:
        yield disk
    finally:
        disk.unmount()


def error_problems(run: Run, code: int, words: tuple[str, ...]) -> list[str]:
    """Return the problems of a failed command, which must print one of `words` in an error line and no traceback."""
    text = run.tail(20_000)
    if code == 0:
        return [f"ended well: {text[-200:]}"]
    if "Traceback" in text:
        return [f"a traceback: {text[-900:]}"]
    lines = [line for line in text.splitlines() if "error:" in line]
    if not any(word in line for line in lines for word in words):
        return [f"no error line with {' or '.join(words)!r}: {text[-300:]}"]
    return []


def full_disk(target: Target, root: Path, expected: dict[str, str], room: int, rng: random.Random) -> list[str]:
    """Run on a disk that is too small, then again with enough space."""
    problems: list[str] = []
    with mounted(root / "small", int(room * rng.uniform(0.02, 0.98))) as disk:
        log_folder = root / "small"
        for step in target.steps(log_folder):
            run = launch(target.program, step.arguments, log_folder, step.processes, log=root / LOG)
            code = run.wait(PATIENCE_SECONDS)
            if code:
                problems += error_problems(run, code, ("No space left on device", "bytes left on the device"))
            problems += [f"with the disk full: {p}" for p in target.problems(log_folder)]
            disk.remount(f"size={room * 4 + (64 << 20)}")
            if not step.is_done(log_folder):
                run = launch(target.program, step.arguments, log_folder, step.processes, log=root / LOG)
                if run.wait(PATIENCE_SECONDS):
                    problems.append(f"with room again: {run.tail(300)}")
            disk.remount(f"size={int(room * rng.uniform(0.5, 1.5)) + used(log_folder)}")
        if target.result(log_folder) != expected:
            problems.append("with room again: other bytes than undisturbed")
    return problems


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def disturbed(target: Target, root: Path, kind: str, seconds: float, rng: random.Random) -> list[str]:
    """Make the disk read-only, or remove it, in the middle of the last step."""
    problems: list[str] = []
    with mounted(root / "small", 1 << 30) as disk:
        folder = root / "small"
        for step in target.steps(folder):
            run = launch(target.program, step.arguments, folder, step.processes, log=root / LOG)
            if step is not target.steps(folder)[-1] and step.name != target.steps(folder)[-1].name:
                run.wait(PATIENCE_SECONDS)
                continue
            time.sleep(rng.uniform(0.1, 0.7) * seconds)
            if run.poll():
                return []
            if kind == "vanished":
                disk.unmount()
            else:
                for _ in range(2000):  # an open file for writing keeps the disk from becoming read-only
                    try:
                        disk.remount("ro")
                        break
                    except subprocess.CalledProcessError:
                        time.sleep(0.001)
            code = run.wait(PATIENCE_SECONDS)
            if kind == "vanished":
                return (
                    []
                    if code == 0
                    else error_problems(run, code, ("No such file", "Stale", "damaged", "missing", "not a file"))
                )
            if code and not (folder / step.output).exists():
                problems += error_problems(run, code, ("Read-only file system",))
            problems += target.problems(folder)
    return problems


def refused(target: Target, root: Path, kind: str) -> list[str]:
    """Run without the permission to write the output folder or to read an input file."""
    folder = root / "theirs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    inputs = [p for p in (*(root / "data").rglob("*"), *(root / "hf").rglob("*")) if p.is_file()]
    inputs += list((root / "base").rglob("*.distcp")) if "to-hf" in target.name else []
    closed = inputs if kind == "input" else [folder]
    try:
        for path in closed:
            path.chmod(0o555 if path.is_dir() else 0o000)
        step = target.steps(folder)[0]
        run = launch(target.program, step.arguments, folder, step.processes, log=root / LOG, obeys_permissions=True)
        return error_problems(run, run.wait(PATIENCE_SECONDS), ("Permission denied",))
    finally:
        for path in closed:
            path.chmod(0o755 if path.is_dir() else 0o644)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8, help="full disks for each variant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(EXAMPLES), help="one program")
    given = parser.parse_args(arguments)
    if not is_possible():
        print("disk: skipped: a tmpfs cannot be mounted here (root on Linux is needed)")
        return 0
    tally = Tally("disk", given.seed)
    for program, numbers in EXAMPLES.items():
        for number in numbers if given.only in (None, program) else ():
            _one(TARGETS[program][number], given.runs, given.seed, tally)
    return tally.close()


def _one(target: Target, runs: int, seed: int, tally: Tally) -> None:
    rng = random.Random(f"{seed} {target.name}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        preload(target.program)
        target.prepare(root)
        reference, seconds = root / "reference", time.monotonic()
        reference.mkdir()
        for step in target.steps(reference):
            run = launch(target.program, step.arguments, reference, step.processes)
            assert run.wait(PATIENCE_SECONDS) == 0, run.tail()
        seconds = time.monotonic() - seconds
        expected, room = target.result(reference), used(reference)
        problems: list[str] = []
        for _ in range(runs):
            problems += [f"full: {p}" for p in full_disk(target, root, expected, room, rng)]
        others = 0
        for kind in ("read-only", "vanished"):
            for _ in range(max(1, runs // 4)):
                problems += [f"{kind}: {p}" for p in disturbed(target, root, kind, seconds, rng)]
                others += 1
        for kind in ("output", "input"):
            problems += [f"no permission, {kind}: {p}" for p in refused(target, root, kind)]
            others += 1
    tally.add(target.name, runs + others, problems, f"{runs} full disks, {others} gone, read-only or not permitted")


if __name__ == "__main__":
    sys.exit(main())
