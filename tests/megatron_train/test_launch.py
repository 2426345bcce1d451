"""The command `launch`: errors before any rank starts, and one message when a rank fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_train import launch
from megatron_train.__main__ import main
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.paths import ROOT


@pytest.fixture
def config(tmp_path: Path) -> str:
    LLAMA.save(tmp_path / "model.yaml")
    train = write_shard(tmp_path / "toy", toy_documents(12))
    settings = {"model": str(tmp_path / "model.yaml"), "train_data_path": [train], "seq_length": 48, "train_iters": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return str(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--tensor_model_parallel_size", "3"], 2, "world size 2 is not a multiple of tensor_model_parallel_size 3"),
        (["--pipeline_model_parallel_size", "2", "--train_data_path", "missing"], 1, "missing-text.idx: no such shard"),
        (["--load", "missing"], 1, "missing: no such checkpoint folder"),
        (["--seq_length", "4096"], 2, "exceeds the model's max_position_embeddings 64"),
    ],
)
def test_a_wrong_launch_is_refused_before_torchrun(
    flags: list[str], code: int, message: str, config: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(launch, "start_ranks", lambda *_: pytest.fail("ranks were started"))
    assert main(["launch", "--nproc_per_node", "2", "--config", config, *flags]) == code
    assert message in capsys.readouterr().err


def test_torchrun_gets_its_own_flags_and_the_ranks_the_others(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(launch, "start_ranks", lambda words, code: started.append((words, code)) or 0)
    flags = ["--nnodes", "2", "--node_rank", "1", "--config", config, "--exit_code_on_signal", "17"]
    assert main(["launch", "--nproc_per_node", "2", *flags]) == 0
    rank_flags = ["-m", "megatron_train", "--config", config, "--exit_code_on_signal", "17"]
    assert started == [(["--nproc_per_node=2", "--nnodes=2", "--node_rank=1", *rank_flags], 17)]


def test_an_error_of_every_rank_is_one_message(config: str, tmp_path: Path) -> None:
    """tests/test_end_to_end.py has a launch that trains."""
    roles = tmp_path / "toy-role.bin"
    roles.write_bytes(b"\x03" * len(roles.read_bytes()))  # not a chat role
    words = [sys.executable, "-m", "megatron_train", "launch", "--nproc_per_node", "2", "--config", config]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    failed = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert failed.returncode == 2
    errors = [line for line in failed.stderr.splitlines() if not line.startswith("warning: ")]
    assert 1 <= len(errors) <= 2, failed.stderr  # rank 0 prints the error and names the rank that failed first
    assert all("none of the 12 training documents" in line for line in errors)
