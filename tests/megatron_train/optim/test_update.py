from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_train.certificate.tensors import full_parameters
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import config_from_settings
from megatron_train.config.settings import TrainConfig
from megatron_train.optim.update import MIN_HISTORY, DivergedError, Divergence, global_norm, is_spike
from megatron_train.train_step import is_unwanted
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.megatron_train.runs import start

STEADY = tuple([2.0, 2.2] * 8)
"""Losses with mean 2.1 and standard deviation 0.1."""


@pytest.mark.parametrize(("value", "spike"), [(2.0, False), (2.69, False), (2.71, True), (0.0, False)])
def test_a_spike_is_six_deviations_above_the_mean(value: float, spike: bool) -> None:
    assert is_spike(value, STEADY, sigma=6.0) is spike


def test_nothing_is_a_spike_without_a_history() -> None:
    assert len(STEADY) == MIN_HISTORY
    assert not is_spike(100.0, STEADY[1:], sigma=6.0)


def test_equal_values_do_not_make_the_next_a_spike() -> None:
    assert not is_spike(2.0001, [2.0] * MIN_HISTORY, sigma=6.0)
    assert is_spike(2.1, [2.0] * MIN_HISTORY, sigma=6.0)


def test_a_spike_in_either_is_unwanted() -> None:
    state = TrainState(iteration=20, recent_losses=STEADY, recent_grad_norms=STEADY)
    config = config_from_settings({"skip_spike_sigma": "6"}, "test")
    assert not is_unwanted(state, config.optimizer, loss=2.2, grad_norm=2.2)
    assert is_unwanted(state, config.optimizer, loss=9.0, grad_norm=2.2)
    assert is_unwanted(state, config.optimizer, loss=2.2, grad_norm=9.0)
    assert not is_unwanted(state, TrainConfig().optimizer, loss=9.0, grad_norm=9.0)


def test_training_continues_when_the_level_has_changed_for_good() -> None:
    config, state, skipped = config_from_settings({"skip_spike_sigma": "6"}, "test"), TrainState(), 0
    for i in range(600):
        loss = (2.0 if i < 200 else 2.5) + (0.01 if i % 2 else -0.01)
        skipped += is_unwanted(state, config.optimizer, loss, 1.0)
        state = state.remember(loss, 1.0, config.optimizer.skip_spike_window)
    assert 0 < skipped < 10


def test_the_norm_is_one_read_from_the_device(tmp_path: Path, single_process: None) -> None:
    prefix = write_shard(tmp_path / "toy", toy_documents(8))
    run = start(LLAMA, {"train_data_path": [prefix], "global_batch_size": 4})
    run.step()
    assert not run.optimizer.prepare_grads()
    expected = float(
        run.optimizer.get_grad_norm()
    )  # megatron-core's own norm, which reads from the device once per parameter
    with torch.profiler.profile() as profile:
        found = global_norm(run.optimizer)
    assert found == pytest.approx(expected, rel=1e-6)
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::item") == 1


def test_skip_iters_leaves_the_weights_alone(tmp_path: Path, single_process: None) -> None:
    prefix = write_shard(tmp_path / "toy", toy_documents(8))
    settings = {"global_batch_size": 4, "lr": 1e-2, "skip_iters": [2], "lr_decay_style": "linear", "train_iters": 10}
    run = start(LLAMA, {"train_data_path": [prefix]} | settings)
    first = run.step()
    before = full_parameters(run.chunks)[0]
    report = run.step()
    assert report.skipped
    assert all(value.equal(before[key]) for key, value in full_parameters(run.chunks)[0].items())
    third = run.step()
    assert not third.skipped
    assert first.lr > report.lr == third.lr  # the schedule counts applied iterations
    assert (run.state.iteration, run.state.skipped_iterations, run.state.consumed_train_samples) == (3, 1, 12)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True, "initial_loss_scale": 1024.0}])
@pytest.mark.parametrize("normalization", ["token", "micro_batch"])
def test_nan_in_one_micro_batch_leaves_out_the_iteration_and_is_shown(
    precision: dict[str, Any], normalization: str, tmp_path: Path, single_process: None
) -> None:
    settings = {"global_batch_size": 4, "micro_batch_size": 1, "lr": 1e-2, "loss_normalization": normalization}
    prefix = write_shard(tmp_path / "toy", toy_documents(8))
    run = start(LLAMA, settings | precision | {"train_data_path": [prefix]})
    run.step()
    before, calls = full_parameters(run.chunks)[0], []

    def poison(module: Any, inputs: Any, output: Any) -> Any:
        calls.append(None)
        return output * math.nan if len(calls) == 3 else output

    embedding = next(module for module in run.chunks[0].modules() if type(module).__name__ == "LanguageModelEmbedding")
    handle = embedding.register_forward_hook(poison)
    report = run.step()
    handle.remove()
    assert len(calls) == 4
    assert math.isnan(report.lm_loss)
    assert report.skipped
    assert all(value.equal(before[key]) for key, value in full_parameters(run.chunks)[0].items())
    after = run.step()
    assert math.isfinite(after.lm_loss)
    assert not after.skipped
    assert (run.state.skipped_iterations, run.state.consumed_train_samples) == (1, 12)


def test_a_run_that_only_gives_nan_ends() -> None:
    divergence = Divergence(limit=3)
    for iteration, (loss, norm) in enumerate([(math.nan, 1.0), (2.0, math.inf), (2.0, 1.0), (math.nan, math.nan)], 1):
        divergence.check(iteration, loss, norm)
    assert divergence.count == 1
    divergence.check(5, math.nan, 1.0)
    expected = r"3 iterations in a row up to 6 were not finite \(loss nan, gradient norm inf\).* --max_not_finite"
    with pytest.raises(DivergedError, match=expected):
        divergence.check(6, math.nan, math.inf)


def test_a_limit_of_zero_never_ends_a_run() -> None:
    divergence = Divergence(limit=0)
    for iteration in range(1, 1001):
        divergence.check(iteration, math.nan, 1.0)
    assert divergence.count == 1000
