from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core import tensor_parallel

from megatron_train.checkpoint.folder import CheckpointError
from megatron_train.checkpoint.train_state import TrainState, load_rng, save_rng
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.parallel.distributed import init_distributed


def test_advance_counts_iterations_samples_and_skips() -> None:
    state = TrainState().advance(64, True).advance(64, False)
    assert (state.iteration, state.consumed_train_samples, state.skipped_iterations) == (2, 128, 1)


def test_the_best_is_the_lowest_finite_loss() -> None:
    state = TrainState(iteration=5).evaluated(math.nan)
    assert (state.best_loss, state.best_iteration) == (None, None)
    state = replace(state.evaluated(2.0), iteration=10).evaluated(2.5)
    assert (state.best_loss, state.best_iteration) == (2.0, 5)
    state = replace(state.evaluated(math.inf), iteration=15).evaluated(1.5)
    assert (state.best_loss, state.best_iteration) == (1.5, 15)


def test_the_last_losses_and_norms_are_remembered() -> None:
    state = TrainState().remember(2.0, 0.25, 2).remember(2.5, 0.5, 2).remember(3.0, 0.75, 2)
    assert (state.recent_losses, state.recent_grad_norms) == ((2.5, 3.0), (0.5, 0.75))


def test_save_and_load_give_the_same_as_readable_json(tmp_path: Path) -> None:
    state = TrainState(3, 192, 1, "abc", 8, 1.5, 2, (2.0, 2.5), (0.25, 0.5))
    state.save(tmp_path)
    assert json.loads((tmp_path / "train_state.json").read_text())["consumed_train_samples"] == 192
    assert TrainState.load(tmp_path) == state


@pytest.mark.parametrize("text", ["{", "[1]", '{"iterations": 3}', '{"iteration": "many"}'])
def test_a_damaged_file_names_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "train_state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"train_state.json: cannot be read .*--finetune"):
        TrainState.load(tmp_path)


def draws() -> list[float]:
    own = torch.rand(3).tolist()
    with tensor_parallel.get_cuda_rng_tracker().fork():
        return own + torch.rand(3).tolist()


def test_random_streams_continue_after_loading(tmp_path: Path, single_process: None) -> None:
    layout = init_distributed(TrainConfig().parallel, 5)
    first = draws()
    save_rng(tmp_path, layout)
    expected = draws()
    init_distributed(TrainConfig().parallel, 6)
    assert load_rng(tmp_path, layout)
    assert draws() == expected
    assert len({*first, *expected}) == 12


def test_streams_of_another_layout_are_not_taken(tmp_path: Path, single_process: None) -> None:
    layout = init_distributed(TrainConfig().parallel, 5)
    assert not load_rng(tmp_path, layout)
    save_rng(tmp_path, layout)
    before = torch.get_rng_state()
    assert not load_rng(tmp_path, ParallelLayout(world_size=2, tp=2))
    assert torch.equal(torch.get_rng_state(), before)
