"""Print commands as a user types them, then run them."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence

from examples.cards.card import ROOT


def module(name: str, *arguments: object) -> list[str]:
    """Return the command `python -m name ...` as a list of words, with the Python that runs this program."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def launch(processes: int, name: str, *arguments: object) -> list[str]:
    """Return the command that starts module `name` with torchrun in `processes` processes on this machine.

    One process starts without torchrun.
    """
    if processes == 1:
        return module(name, *arguments)
    flags = ["--nproc_per_node", processes, "--master_port", free_port()]
    return module("torch.distributed.run", *flags, "-m", name, *arguments)


def run(command: Sequence[str], show: bool = True) -> None:
    """Print a command as a user types it (unless `show` is False), and run it in the repository root.

    Raises CalledProcessError.
    """
    if show:
        print(f"\n$ {shown(command)}", flush=True)
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    subprocess.run(list(command), check=True, cwd=ROOT, env=environment)


def shown(command: Sequence[str]) -> str:
    """Return a command as one line of shell to paste, with `python` and `torchrun` by name and without the port."""
    words = ["python" if word == sys.executable else word for word in command]
    text = shlex.join(words).replace("python -m torch.distributed.run", "torchrun")
    start, found, rest = text.partition(" --master_port ")
    return start + " " + rest.partition(" ")[2] if found else text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
