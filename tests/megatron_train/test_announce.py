from __future__ import annotations

import pytest

from megatron_train.announce import announce, describe_batch
from megatron_train.config.flags import CommandLine, config_from_settings
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
    announce(CommandLine(config, {}, {}), LLAMA, layout)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "on 1 x CPU (gloo); attention kernel documents; Adam megatron_train.optim.adam.FusedLayoutAdam"
