"""The GPU report: how it survives parts that fail, and the whole of it at tiny sizes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_report import SCHEDULE, Part, Result, page, parse_arguments, run_schedule
from tests.paths import ROOT


def part(function: str, limit: float = 60.0) -> Part:
    return Part(function, limit, "tests.benchmarks.fake_parts", function)


def report_of(tmp_path: Path, *parts: Part, words: tuple[str, ...] = ()) -> list[Result]:
    records = tmp_path / "records"
    records.mkdir()
    return run_schedule(parts, parse_arguments(["--output_dir", str(tmp_path), *words]), records)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_part_that_fails_keeps_its_rows_and_the_next_part_runs(tmp_path: Path) -> None:
    names = ("measures", "is_wrong", "raises", "crashes", "is_skipped")
    results = report_of(tmp_path, *map(part, names[:4]), part("hangs", limit=5.0), part("is_skipped"))
    found = {result.name: result for result in results}
    assert {name: found[name].status for name in found} == {
        "measures": "passed",
        "is_wrong": "failed",
        "raises": "failed",
        "crashes": "failed",
        "hangs": "cut",
        "is_skipped": "skipped",
    }
    assert found["is_wrong"].reason == "1 of 2 rows: too far"
    assert found["raises"].reason.startswith("RuntimeError: out of luck (fake_parts.py:")
    assert found["raises"].rows == [{"speed": 3.5}]
    assert found["crashes"].reason == "signal SIGSEGV: no output"
    assert found["crashes"].rows == [{"speed": 4.5}]
    assert found["hangs"].reason.startswith("still running after 5 s")
    assert found["is_skipped"].reason == "needs a second moon"
    content = json.loads((tmp_path / "nvidia-h200.json").read_text())
    assert content["device"] == "NVIDIA H200"
    assert [entry["status"] for entry in content["parts"]] == [result.status for result in results]
    child, deadline = found["hangs"].rows[0]["child"], time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline, "the process that the cut part has started is still running"
        time.sleep(0.05)


@pytest.mark.slow
def test_parts_after_the_time_limit_of_the_report_do_not_run(tmp_path: Path) -> None:
    results = report_of(tmp_path, part("measures"), part("hangs"), part("measures"), words=("--seconds", "6"))
    assert [result.status for result in results] == ["passed", "cut", "not run"]
    assert results[2].reason == "the 6 s are over"
    assert "| hangs | cut |" in (tmp_path / "nvidia-h200.md").read_text()


def test_the_page_shows_every_column_and_escapes_bars() -> None:
    rows: list[dict[str, Any]] = [{"kernel": "a|b", "ms": 1234.5}, {"kernel": "c", "passed": False, "ms": 0.012345}]
    assert page("GPU", [Result("kernel times", "passed", 3.4, "", rows)]) == (
        "# GPU\n\nWritten by `make gpu-report`.\n\n"
        "| part | result | seconds | reason |\n|---|---|---:|---|\n| kernel times | passed | 3 |  |\n\n"
        "## Kernels of two training steps by time\n"
        "| kernel | ms | passed |\n|---|---|---|\n"
        "| a\\|b | 1,234 | - |\n| c | 0.01235 | **no** |\n"
    )


def test_every_part_of_the_schedule_is_a_function() -> None:
    assert len(SCHEDULE) == 10
    for each in SCHEDULE:
        assert (
            f"def {each.function}(record: Record, small: bool) -> None:"
            in (ROOT / f"{each.module.replace('.', '/')}.py").read_text()
        )


@pytest.mark.long
def test_the_report_runs_on_the_cpu_at_tiny_sizes(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu_report", "--small", "--together", "--output_dir", str(tmp_path)]
    environment = os.environ | {"OASST_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {entry["name"]: entry for entry in json.loads((tmp_path / "cpu.json").read_text())["parts"]}
    statuses = {name: entry["status"] for name, entry in parts.items()}
    assert statuses == {each.name: "passed" for each in SCHEDULE} | {"transformer engine": "skipped"}
    checks = {name: sum("passed" in row for row in entry["rows"]) for name, entry in parts.items()}
    assert checks == {
        "environment": 1,
        "kernels": 19,
        "parity": 12 * 3 + 2 * 3 + 2 * 3,  # fp32, one kind in bf16, dropout and recomputation
        "checkpoints": 4,
        "failures": 6,
        "memory": 0,
        "speed": 0,
        "kernel times": 0,
        "transformer engine": 0,
        "beside transformers": 0,
    }
    assert len(parts["memory"]["rows"]) == 10
    assert all(row["tokens_per_second"] > 0 for row in parts["speed"]["rows"])
    assert "## Six kinds of models beside recorded CPU results" in (tmp_path / "cpu.md").read_text()
