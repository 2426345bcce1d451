from __future__ import annotations

from pathlib import Path

import pytest

from megatron_train.report.console import record_failure, tell_failure


def test_a_failure_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    tell_failure("p-text.idx: no such shard")
    assert capsys.readouterr().err == "error: p-text.idx: no such shard\n"


def test_torchrun_finds_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file has the fields that ProcessFailure of torch.distributed.elastic reads."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    record_failure("p-text.idx: no such shard")
    assert capsys.readouterr().err == ""
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(tmp_path / "error.json"))
    assert failure.message["message"] == "p-text.idx: no such shard"  # type: ignore[index]
    assert failure.message["extraInfo"]["py_callstack"] == "p-text.idx: no such shard"  # type: ignore[index]
    assert failure.timestamp_isoformat().startswith("20")
