"""Replaying a training iteration: which runs can be repeated, with which settings, and what counts as equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from checkpoint_convert.verify.replay import Iteration, compared, launch_command, recorded_iteration, replay

FIGURES = {"lm_loss": 3.9912345678901234, "grad_norm": 1.25, "num_target_tokens": 90, "num_tokens": 120, "lr": 1e-5}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the checkpoint of a run on two CPU processes that started from tmp_path/base."""
    checkpoint = tmp_path / "stage1" / "iter_0000004"
    checkpoint.mkdir(parents=True)
    settings = {"load": str(tmp_path / "base"), "lr": 1e-5, "save_interval": 2, "wandb_logger": True, "eval_iters": 3}
    (checkpoint / "train_config.yaml").write_text(yaml.safe_dump(settings))
    (checkpoint / "train_state.json").write_text('{"world_size": 2}')
    rank_states(checkpoint, "tp2-pp1-vpp1-dp1-cpu")
    lines = [{"iteration": i, **FIGURES, "lm_loss": FIGURES["lm_loss"] / i, "mfu": None} for i in (1, 2)]
    (tmp_path / "stage1" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return checkpoint


def rank_states(checkpoint: Path, layout: str) -> None:
    save_file({"0/torch": torch.zeros(1)}, checkpoint / "rng_state.safetensors", metadata={"layout": layout})


def test_the_first_iteration_of_a_run_is_recorded_with_its_start(run: Path, tmp_path: Path) -> None:
    release = tmp_path / "base" / "release"
    assert recorded_iteration([run, release]) == Iteration(str(run), str(release), 2, 1, FIGURES)


def test_runs_that_a_cpu_cannot_repeat_are_not_recorded(run: Path, tmp_path: Path) -> None:
    assert recorded_iteration([run]) is None  # the start no longer exists
    rank_states(run, "tp2-pp1-vpp1-dp1-cuda")
    assert recorded_iteration([run, tmp_path]) is None
    rank_states(run, "tp2-pp1-vpp1-dp1-cpu")
    settings = yaml.safe_load((run / "train_config.yaml").read_text())
    (run / "train_config.yaml").write_text(yaml.safe_dump(settings | {"load": str(run.parent)}))
    assert recorded_iteration([run, tmp_path]) is None  # the run resumed its own folder
    assert recorded_iteration([tmp_path / "base" / "release"]) is None  # imported weights


def test_a_replay_runs_one_iteration_in_another_folder(run: Path, tmp_path: Path) -> None:
    recorded = Iteration(str(run), "base/release", 2, 1, FIGURES)
    command = launch_command(recorded, tmp_path)
    assert command[1:] == ["-m", "megatron_train", "launch", "--nproc_per_node", "2", "--config", command[-1]]
    assert yaml.safe_load(Path(command[-1]).read_text()) == {
        "load": "base/release",
        "lr": 1e-5,
        "save": str(tmp_path / "run"),
        "exit_interval": 1,
        "eval_iters": 0,
    }


def test_figures_are_compared_bitwise() -> None:
    assert compared("iteration 1 of run", FIGURES, dict(FIGURES)).line == (
        "replayed: iteration 1 of run, loss 3.991235: all figures are bitwise equal"
    )
    other = compared("iteration 1 of run", FIGURES, FIGURES | {"lm_loss": 3.991234567890124})
    assert "lm_loss 3.9912345678901233 is 3.991234567890124 here" in other.problem


def test_a_replay_without_its_folders_states_the_reason(run: Path) -> None:
    result = replay(Iteration(str(run), "gone/release", 2, 1, FIGURES))
    assert (result.line, result.problem) == ("not replayed: gone/release not here", "")
    result = replay(Iteration(str(run), None, 512, 1, FIGURES))
    assert result.line == "not replayed: the run had 512 processes"
