"""The three commands of a wheel installed outside the checkout run in another folder with shipped names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow
PARTS = ("pretokenizer", "megatron_train", "checkpoint_convert", "configs")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the wheel and the sdist, built from a copy so that no old build folder is reused."""
    copy = tmp_path_factory.mktemp("source")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy), folder=copy)
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("target")
    wheel = next(built.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    run(*command, str(wheel), folder=built)
    return target


def run(*command: str, folder: Path, target: Path | None = None) -> str:
    """Run a command in `folder` with `target` as the only PYTHONPATH and return its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if target:
        environment["PYTHONPATH"] = str(target)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_sdist_holds_the_packages_and_the_configurations(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pretokenizer/build.py", "configs/train/falcon-7b-sft-top1-696.yaml", "setup.py", "LICENSE"} <= names


def test_pretokenize_finds_its_sections_and_writes_shards(installed: Path, tmp_path: Path) -> None:
    data, tokenizer = ROOT / "examples" / "data", ROOT / "examples" / "data" / "tokenizer" / "sample.model"
    command = [str(installed / "bin" / "pretokenize"), "build", "--configs", "oasst_pre10", "sample"]
    flags = ["--data_dir", str(data), "--vocab_file", str(tokenizer)]
    run(*command, *flags, folder=tmp_path, target=installed)
    assert (tmp_path / "output" / "oasst_pre10_min25_sample" / "oasst_pre10-train-text.bin").stat().st_size > 30_000


def test_megatron_train_plans_a_shipped_configuration_by_name(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "bin" / "megatron-train"), "plan", "--config", "falcon-7b-sft-top1-696"]
    assert "6,921,720,704 as published" in run(*command, "--world_size", "8", folder=tmp_path, target=installed)


def test_checkpoint_convert_shows_its_commands(installed: Path, tmp_path: Path) -> None:
    shown = run(str(installed / "bin" / "checkpoint-convert"), "--help", folder=tmp_path, target=installed)
    assert "from-hf" in shown and "to-hf" in shown
