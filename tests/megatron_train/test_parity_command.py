"""The command `parity` as a user starts it: exit codes, messages and parity.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from megatron_train import parity
from megatron_train.__main__ import main
from megatron_train.certificate.comparison import Difference, Worst
from megatron_train.certificate.local_ranks import RankError
from megatron_train.certificate.plan import Certificate
from megatron_train.certificate.report import Result
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA

EQUAL = Difference(Worst(0.0), Worst(0.0), Worst(0.0), Worst(0.0), copies_apart=0.0, num_applied=3)


@pytest.fixture
def config(tmp_path: Path) -> str:
    LLAMA.save(tmp_path / "model.yaml")
    settings = {
        "model": str(tmp_path / "model.yaml"),
        "train_data_path": [write_shard(tmp_path / "toy", toy_documents(40))],
        "seq_length": 48,
        "train_iters": 10,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return str(tmp_path / "run.yaml")


@pytest.mark.slow
@pytest.mark.ranks
def test_a_layout_that_trains_as_one_process_is_exit_code_0(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--world_size", "4", "--tensor_model_parallel_size", "2", "--fp16", "--hidden_dropout", "0.1"]
    assert main(["parity", "--config", config, *flags, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "EQUAL: tp2-dp2 trains as one process does" in out
    assert "dropout, which is off" in out
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["equal"] is True
    assert report["layouts"] == [{"asked": "tp2-dp2", "ranks": 4, "run": "tp2-dp2"}]
    assert [(each["layout"], each["precision"]) for each in report["results"]] == [
        ("tp2-dp2", "fp32"),
        ("tp2-dp2", "fp16"),
    ]
    assert all(each["num_applied"] == 3 for each in report["results"])


def test_a_wrong_layout_and_a_failing_rank_are_exit_code_1(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(certificate: Certificate, folder: Path) -> list[Result]:
        broken = replace(EQUAL, gradient=Worst(0.37, "decoder.final_layernorm.weight", 1))
        return [Result(case.layout, case.precision, broken) for case in certificate.cases]

    def failing(certificate: Certificate, folder: Path) -> list[Result]:
        raise RankError("rank 1 of 2 failed")

    monkeypatch.setattr(parity, "run_certificate", wrong)
    assert main(["parity", "--config", config, "--layouts", "pp2,tp2-sp"]) == 1
    out = capsys.readouterr().out
    assert "NOT EQUAL: pp2 in fp32 does not train as one process does: a gradient differs by 3.7e-01" in out
    assert "NOT EQUAL: tp2-sp in fp32" in out
    monkeypatch.setattr(parity, "run_certificate", failing)
    assert main(["parity", "--config", config, "--layouts", "pp2"]) == 1
    assert "NOT EQUAL: a run of the small model ended with an error: rank 1 of 2 failed" in capsys.readouterr().out


def test_a_large_layout_says_what_it_is_reduced_to(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "run_certificate", lambda certificate, folder: [
        Result(case.layout, case.precision, EQUAL) for case in certificate.cases
    ])  # fmt: skip
    flags = ["--model", "llama2_70b", "--tensor_model_parallel_size", "8", "--pipeline_model_parallel_size", "8"]
    assert main(["parity", "--config", config, *flags, "--world_size", "64"]) == 0
    out = capsys.readouterr().out
    assert "tp8-pp8 (64 ranks) is reduced to tp4-pp4 (16 processes)" in out
    assert "num_layers 80 -> 4" in out
    assert "data parallelism (--world_size N adds it)" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "there is no parallel layout to compare with one process"),
        (["--layouts", "tp2+pp2"], "layout 'tp2+pp2': 'tp2+pp2' is none of tpN"),
        (["--layouts", "tp3"], "layout tp3: tensor_model_parallel_size 3 does not divide num_attention_heads 4"),
        (["--world_size", "3", "--tensor_model_parallel_size", "2"], "world size 3 is not a multiple"),
        (["--layouts", "tp2", "--train_data_path", "missing"], "missing-text.idx: no such shard"),
        (["--layouts", "tp2", "--train_data_path"], "no training data: give --data_path"),
        (["--layouts", "tp2", "--max_processes", "0"], "--max_processes is 0; it must be at least 2"),
        (["--layouts", "tp2", "--learning_rate", "1"], "use --lr X"),
    ],
)
def test_a_wrong_setting_is_exit_code_2_with_one_message(
    flags: list[str], message: str, config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "run_certificate", lambda *_: pytest.fail("ranks were started"))
    assert main(["parity", "--config", config, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
