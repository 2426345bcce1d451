"""A few of each kind of fault, in processes of their own; `make faults` has all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.faults.fuzz import CORPUS, fuzz_blindly
from tests.faults.fuzz_targets import ALLOWED, TARGETS
from tests.paths import ROOT


def run(*words: str) -> str:
    """A campaign with few cases; what it printed, when nothing was wrong."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", f"tests.faults.{words[0]}", *words[1:]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_kills_of_the_pretokenizer() -> None:
    shown = run("kill", "--runs", "9", "--only", "pretokenizer", "--seed", "11")
    assert shown.count("3 kills") == 3
    assert shown.count("; 0 problems (seed 11") == 3


def test_kills_of_the_trainer() -> None:
    shown = run("kill", "--runs", "2", "--only", "trainer", "--variants", "1", "--seed", "12")
    assert "trainer, DP2, saves sync: 2 kills" in shown


def test_kills_of_the_converter() -> None:
    assert run("kill", "--runs", "2", "--only", "converter", "--variants", "1", "--seed", "13").count("2 kills") == 1


def test_full_disks() -> None:
    shown = run("disk", "--runs", "2", "--only", "pretokenizer", "--seed", "14")
    assert "skipped" in shown or shown.count("2 full disks") == 2


def test_damage() -> None:
    assert run("corrupt", "--runs", "65", "--seed", "15").count("; 0 problems") == 13


def test_hostile_files() -> None:
    shown = run("hostile", "--every", "40")
    assert shown.count("; 0 problems") == 8


def test_planted_tokens() -> None:
    assert "7 commands" in run("secrets")


def test_dependencies_have_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = [word for group in groups for word in group if "[" not in word and not word.startswith("types-")]
    unbounded = [word for word in named if "==" not in word and not (">=" in word and ",<" in word)]
    assert unbounded == []


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_what_fuzzing_found_stays_mended(target: str) -> None:
    for path in sorted((CORPUS / target).glob("*")):
        try:
            TARGETS[target](path.read_bytes())
        except ALLOWED:
            continue


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_second_of_blind_fuzzing(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.fuzz.CORPUS", tmp_path)
    tried, problems = fuzz_blindly(target, 0.5, seed=16)
    assert tried > 0
    assert problems == []
