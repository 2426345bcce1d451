from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from megatron_train.config.flags import config_from_settings
from megatron_train.report.phases import PhaseTimer, Profiler


def test_each_phase_has_its_own_time_in_each_iteration() -> None:
    timer = PhaseTimer()
    timer.start(1, "read")
    time.sleep(0.02)
    timer.enter("forward_backward")
    time.sleep(0.05)
    timer.enter("report")
    assert (timer.iteration, timer.phase) == (1, "report")
    assert list(timer.seconds) == ["read", "forward_backward"]
    assert 0.02 <= timer.seconds["read"] < timer.seconds["forward_backward"]
    assert timer.total() >= sum(timer.seconds.values())
    timer.enter("evaluate")
    timer.start(2, "read")
    assert (timer.iteration, timer.phase, list(timer.seconds)) == (2, "read", ["evaluate"])
    assert timer._started == timer.entered


def test_every_change_counts_so_that_a_stall_shows() -> None:
    timer = PhaseTimer()
    before = (timer.changes, timer.entered)
    timer.start(1, "read")
    timer.enter("read")
    assert timer.changes == before[0] + 2
    assert timer.entered > before[1]


def test_a_profile_of_chosen_iterations_is_a_chrome_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_rank: None
) -> None:
    import torch

    profiler = Profiler(config_from_settings({"save": str(tmp_path), "profile_iters": ["2", "3"]}, "test"))
    for iteration in (1, 2, 3, 4):
        profiler.before(iteration)
        torch.ones(4, 4) @ torch.ones(4, 4)
        profiler.after(iteration)
        assert (tmp_path / "profile").exists() == (iteration >= 3)
    events = json.loads((tmp_path / "profile" / "rank_00000.json").read_text())["traceEvents"]
    assert sum(event["name"] == "aten::matmul" for event in events) == 2
    assert f"profile of iterations 2 to 3 in {tmp_path}/profile" in capsys.readouterr().out


def test_without_profile_iters_nothing_is_written(tmp_path: Path) -> None:
    profiler = Profiler(config_from_settings({"save": str(tmp_path)}, "test"))
    profiler.before(1)
    profiler.after(1)
    assert list(tmp_path.iterdir()) == []
