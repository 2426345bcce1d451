from __future__ import annotations

from typing import Any

import pytest

from megatron_train.config.flags import config_from_settings
from megatron_train.config.in_force import with_batch_size, with_iterations
from megatron_train.config.parallel_layout import ParallelLayout


@pytest.mark.parametrize(
    ("given", "stored", "size"),
    [({}, {}, 8), ({}, {"global_batch_size": 16}, 16), ({"global_batch_size": 4}, {"global_batch_size": 16}, 4)],
)
def test_the_batch_is_the_given_one_then_the_checkpoints_then_one_micro_batch_a_rank(
    given: dict[str, Any], stored: dict[str, Any], size: int
) -> None:
    config = config_from_settings({"micro_batch_size": 2} | given, "t")
    assert with_batch_size(config, ParallelLayout(world_size=4), stored).batch.global_batch_size == size


@pytest.mark.parametrize(
    ("given", "iterations"), [({}, 3), ({"train_epochs": 2.5}, 7), ({"train_iters": 5}, 5), ({"train_epochs": 0.1}, 1)]
)
def test_iterations_come_from_epochs_unless_they_are_given(given: dict[str, Any], iterations: int) -> None:
    config = config_from_settings({"global_batch_size": 4} | given, "t")
    assert with_iterations(config, ParallelLayout(), rows_per_epoch=11.0).batch.train_iters == iterations


@pytest.mark.parametrize(("epochs", "iterations"), [(2.0, 8), (1.0, 6), (0.5, 5)])
def test_a_resumed_run_counts_the_samples_that_are_left(epochs: float, iterations: int) -> None:
    """Five iterations of 2 samples each are done, and the batch is now 4: 2 epochs of 11 rows leave 12 samples."""
    config = config_from_settings({"global_batch_size": 4, "train_epochs": epochs}, "t")
    found = with_iterations(config, ParallelLayout(), rows_per_epoch=11.0, iteration=5, consumed=10)
    assert found.batch.train_iters == iterations
