"""Commands as a user would type them: printed, then run."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence

from examples.cards.card import ROOT


def module(name: str, *arguments: object) -> list[str]:
    """`python -m name ...`"""
    return [sys.executable, "-m", name, *map(str, arguments)]


def launch(processes: int, name: str, *arguments: object) -> list[str]:
    """torchrun on this machine; one process needs none."""
    if processes == 1:
        return module(name, *arguments)
    flags = ["--nproc_per_node", processes, "--master_port", free_port()]
    return module("torch.distributed.run", *flags, "-m", name, *arguments)


def run(command: Sequence[str], show: bool = True) -> None:
    """Runs `command` from the repository root. Raises CalledProcessError."""
    if show:
        print(f"\n$ {shown(command)}", flush=True)
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    subprocess.run(list(command), check=True, cwd=ROOT, env=environment)


def shown(command: Sequence[str]) -> str:
    """The command in one line that can be pasted; the port is left to chance."""
    words = ["python" if word == sys.executable else word for word in command]
    text = shlex.join(words).replace("python -m torch.distributed.run", "torchrun")
    start, found, rest = text.partition(" --master_port ")
    return start + " " + rest.partition(" ")[2] if found else text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
