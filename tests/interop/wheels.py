"""Install packages from the index into a temporary folder, and run programs with them instead of the installed ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

CPYTHON_312 = ("--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--only-binary", ":all:")


def install_or_skip(folder: Path, requirements: Sequence[str], *options: str) -> Path:
    """Install packages into `folder`, and return it. Skip the test when the package index does not provide them."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *options, *requirements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
        pytest.skip(f"the package index does not provide {' '.join(requirements)}: {reason}")
    return folder


def run_with(folder: Path, *command: str) -> str:
    """Run a Python program that imports the packages in `folder` first, and return what it prints.

    Raises AssertionError with its error output when it fails.
    """
    environment = os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
