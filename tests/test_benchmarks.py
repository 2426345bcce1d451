"""Every benchmark starts and ends in its small mode, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("checkpoint_memory", "| peak while loading |", marks=pytest.mark.long),
        pytest.param("convert", "| to-hf |", marks=pytest.mark.long),
        pytest.param("plan_memory", "stablelm_alpha_7b", marks=pytest.mark.long),
        ("pretokenize", "(b)/(a) = "),
        pytest.param("train", "| ours packed / transformers packed |", marks=pytest.mark.long),
    ],
)
def test_a_benchmark_runs_in_its_small_mode(name: str, expected: str) -> None:
    words = [sys.executable, "-W", "ignore", f"benchmarks/{name}.py", "--small"]
    environment = os.environ | {"OASST_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
