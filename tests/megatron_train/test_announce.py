from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_train.announce import announce, announce_schedule, describe_batch
from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import config_from_settings, config_to_yaml
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import Parallel
from megatron_train.parallel.distributed import init_distributed
from tests.megatron_train.models import LLAMA


def test_describe_batch_is_a_sentence() -> None:
    config = config_from_settings(
        {"micro_batch_size": 2, "global_batch_size": 64, "train_iters": 12_000, "train_data_path": ["p"]}, "t"
    )
    layout = ParallelLayout(world_size=64, tp=8, pp=4)
    assert describe_batch(config, layout, 768_968, 768_968.0) == (
        "64 samples = 2 per micro-batch x 16 micro-batches x 2 data-parallel ranks; "
        "12,000 iterations = 0.999 epochs of 768,968 documents"
    )


def test_devices_and_kernels_are_announced(single_process: None, capsys: pytest.CaptureFixture[str]) -> None:
    layout = init_distributed(Parallel(), seed=0)
    config = config_from_settings({"train_iters": 1, "packing": True, "train_data_path": ["p"]}, "t")
    announce(config, {}, LLAMA, layout)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "on 1 x CPU (gloo); attention kernel documents; Adam megatron_train.optim.adam.FusedLayoutAdam",
        "weight gradients are added to fp32 by kernel separate: on the CPU, two steps are faster",
    ]


@pytest.mark.parametrize(
    ("stored", "line"),
    [
        ({}, ""),
        (
            {"train_iters": 8},
            "continues at 0.0005; the checkpoint's schedule gives 0.000146 here; --lr_decay_iters 8 keeps",
        ),
        ({"lr": 2e-3}, "continues at 0.0005; the checkpoint's schedule gives 0.001 here\n"),
    ],
)
def test_a_learning_rate_that_jumps_on_resume_is_announced(
    stored: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cosine is at 1 / 2 after 6 of 12 iterations, and at (1 - 1 / sqrt(2)) / 2 after 6 of 8."""
    settings = {"lr": 1e-3, "train_iters": 12, "global_batch_size": 4}
    (tmp_path / "train_config.yaml").write_text(config_to_yaml(config_from_settings(settings | stored, "t")))
    start, state = Start(tmp_path, resume=True), TrainState(iteration=6)
    announce_schedule(config_from_settings(settings, "t"), ParallelLayout(), start, state)
    error = capsys.readouterr().err
    assert line in error if line else error == ""
