"""Run the project's commands in forked processes, because importing torch in each would be slow.

    preload("trainer")
    run = launch("trainer", ["--config", "run.yaml"], Path("folder"), processes=2)
    run.kill();  run.wait(60)

A forked command runs the package's `main` with a user's arguments, in `folder` and in its own session, and writes its
output to a file. Only the interpreter's start and the imports are shared. A process that has computed gradients or
started threads cannot fork safely, so a test starts this module instead:

    python -m tests.forked "1 pretokenizer build --configs mine" "2 trainer --config run.yaml"

It runs the commands, each with its number of processes, in the current folder up to the first that fails.
`run_forked` does that from a test.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

LOG = "log.txt"
_MAINS: dict[str, Callable[[list[str]], int]] = {}


def preload(program: str) -> None:
    """Import everything that a program imports, without starting a thread."""
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    if program == "pretokenizer":
        import pretokenizer.merge  # noqa: F401
        from pretokenizer.__main__ import main as pretokenize

        _MAINS[program] = pretokenize
    elif program == "trainer":
        from megatron_train.parallel.device import install, quiet_known_warnings

        quiet_known_warnings()
        install()
        import megatron_train.train  # noqa: F401
        from megatron_train.__main__ import main as train

        _MAINS[program] = train
    else:
        import checkpoint_convert.convert
        import checkpoint_convert.verify.verify  # noqa: F401
        from checkpoint_convert.__main__ import main as convert

        _MAINS[program] = convert


class HangError(AssertionError):
    """Raised when a command does not end. The message holds its stacks."""


@dataclass
class Run:
    """A launched command: one process, or one per rank."""

    pids: list[int]
    log: Path
    codes: dict[int, int]
    """Exit status by pid, negative for a signal."""

    def poll(self) -> bool:
        """Return whether every process has ended."""
        for pid in self.pids:
            if pid not in self.codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.pids)

    def wait(self, seconds: float) -> int:
        """Wait until every process has ended, and return the worst exit status. Raises HangError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > deadline:
                for pid in set(self.pids) - set(self.codes):
                    os.kill(pid, signal.SIGUSR2)  # prints its stacks
                time.sleep(1)
                self.kill()
                raise HangError(f"hung for more than {seconds:.0f} s: {self.tail(6000)}")
            time.sleep(0.002)
        return max((abs(code) for code in self.codes.values()), default=0)

    def kill(self, number: int | None = None) -> None:
        """Send SIGKILL to every process and its children, or to one rank only."""
        for pid in self.pids if number is None else [self.pids[number]]:
            if pid in self.codes:
                continue
            try:
                if number is None:
                    os.killpg(pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if number is None:
            while not self.poll():
                time.sleep(0.001)

    def tail(self, characters: int = 2000) -> str:
        """Return the end of the command's output."""
        return self.log.read_text(errors="replace")[-characters:]


def launch(
    program: str,
    arguments: list[str],
    folder: Path,
    processes: int = 1,
    log: Path | None = None,
    obeys_permissions: bool = False,
) -> Run:
    """Start a preloaded program in `folder`, with one process for each rank as torchrun does.

    `log` is overwritten; the default is `folder/log.txt`. With `obeys_permissions`, the modes of files bind the
    processes although they run as root.
    """
    sys.stdout.flush()
    log = log or folder / LOG
    log.write_bytes(b"")
    ranks = {"WORLD_SIZE": processes, "MASTER_PORT": free_port()} if processes > 1 else {}

    def start(rank: int) -> int:
        own = {"RANK": rank, "LOCAL_RANK": rank, **ranks} if processes > 1 else {}
        return _fork(
            program, arguments, folder, log, {name: str(value) for name, value in own.items()}, obeys_permissions
        )

    return Run([start(rank) for rank in range(processes)], log, {})


def _fork(
    program: str, arguments: list[str], folder: Path, log: Path, variables: dict[str, str], obeys_permissions: bool
) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        os.environ.update(variables, MASTER_ADDR="127.0.0.1")
        if obeys_permissions:
            drop_capabilities()
        code = _MAINS[program](arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def drop_capabilities() -> None:
    """Take from this process, and from all that it starts, root's right to ignore the modes of files. Linux only.

    The user stays root: another user might not be allowed to import the installed packages.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    set_secure_bits, no_root_and_locked, version_3 = 28, 3, 0x20080522
    header, no_capabilities = (ctypes.c_uint32 * 2)(version_3, 0), (ctypes.c_uint32 * 6)()
    if libc.prctl(set_secure_bits, no_root_and_locked, 0, 0, 0) or libc.capset(header, no_capabilities):
        raise OSError(ctypes.get_errno(), "cannot drop the capabilities of root")


def free_port() -> int:
    """Return a TCP port of this machine that is not in use."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


def run_forked(folder: Path, *lines: str) -> str:
    """Run commands in `folder`, in a new process that runs this module, and return their output. All must succeed."""
    words = [sys.executable, "-W", "ignore", "-m", "tests.forked", *lines]
    done = subprocess.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def main(lines: list[str]) -> int:
    """Run commands in turn, and print the end of their output. Return 0, or the status of the first that fails."""
    commands = [shlex.split(line) for line in lines]
    for program in {program for _, program, *_ in commands}:
        preload(program)
    for processes, program, *arguments in commands:
        run = launch(program, arguments, Path.cwd(), int(processes))
        code = run.wait(300)
        print(f"{program} {shlex.join(arguments)}:\n{run.tail(50_000)}")
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
