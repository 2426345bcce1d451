from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from megatron_train.optim.update import MIN_HISTORY, DivergedError, count_not_finite, is_spike
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.toy_run import LLAMA, full_parameters, start

STEADY = tuple([2.0, 2.2] * 8)
"""Mean 2.1, standard deviation 0.1."""


@pytest.mark.parametrize(("value", "spike"), [(2.0, False), (2.69, False), (2.71, True), (0.0, False)])
def test_a_spike_is_six_deviations_above_the_mean(value: float, spike: bool) -> None:
    assert is_spike(value, STEADY, sigma=6.0) is spike


def test_nothing_is_a_spike_without_a_history() -> None:
    assert len(STEADY) == MIN_HISTORY
    assert not is_spike(100.0, STEADY[1:], sigma=6.0)


def test_skip_iters_leaves_the_weights_alone(tmp_path: Path, single_process: None) -> None:
    prefix = write_shard(tmp_path / "toy", toy_documents(8))
    run = start(LLAMA, {"train_data_path": [prefix], "global_batch_size": 4, "lr": 1e-2, "skip_iters": [2]})
    run.step()
    before = full_parameters(run.chunks)[0]
    report = run.step()
    assert report.skipped
    assert all(value.equal(before[key]) for key, value in full_parameters(run.chunks)[0].items())
    assert not run.step().skipped
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
    count = 0
    for iteration, (loss, norm) in enumerate([(math.nan, 1.0), (2.0, math.inf), (2.0, 1.0), (math.nan, math.nan)], 1):
        count = count_not_finite(count, iteration, loss, norm, limit=3)
    assert count == 1
    assert count_not_finite(1, 5, math.nan, 1.0, limit=3) == 2
    expected = r"3 iterations in a row up to 6 were not finite \(loss nan, gradient norm inf\).* --max_not_finite"
    with pytest.raises(DivergedError, match=expected):
        count_not_finite(2, 6, math.nan, math.inf, limit=3)
    assert count_not_finite(1000, 7, math.nan, 1.0, limit=0) == 1001
