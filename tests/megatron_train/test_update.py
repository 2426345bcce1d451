from __future__ import annotations

from pathlib import Path

import pytest

from megatron_train.optim.update import MIN_HISTORY, is_spike
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
