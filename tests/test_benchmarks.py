"""Every benchmark starts and ends in its small mode, without a GPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import toy_documents, write_shard
from tests.paths import ROOT


@pytest.mark.parametrize(("name", "expected"), [("convert", "| to-hf |"), ("pretokenize", "(b)/(a) = ")])
def test_a_benchmark_that_starts_processes_runs_in_its_small_mode(name: str, expected: str) -> None:
    words = [sys.executable, "-W", "ignore", f"benchmarks/{name}.py", "--small"]
    environment = os.environ | {"OASST_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reads_data", "expected"),
    [
        ("checkpoint_memory", True, "| peak while loading |"),
        ("plan_memory", False, "stablelm_alpha_7b"),
        ("train", True, "| ours packed / transformers packed |"),
    ],
)
def test_a_benchmark_runs_in_its_small_mode_in_this_process(
    name: str, reads_data: bool, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = ["--prefix", write_shard(tmp_path / "toy", toy_documents(40))] if reads_data else []
    assert importlib.import_module(f"benchmarks.{name}").main(["--small", *prefix]) == 0
    assert expected in capsys.readouterr().out
