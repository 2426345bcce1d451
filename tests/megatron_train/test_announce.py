from __future__ import annotations

from megatron_train.announce import describe_batch
from megatron_train.config.flags import config_from_settings
from megatron_train.config.parallel_layout import ParallelLayout


def test_describe_batch_is_a_sentence() -> None:
    config = config_from_settings(
        {"micro_batch_size": 2, "global_batch_size": 64, "train_iters": 12_000, "train_data_path": ["p"]}, "t"
    )
    layout = ParallelLayout(world_size=64, tp=8, pp=4)
    assert describe_batch(config, layout, 768_968, 768_968.0) == (
        "64 samples = 2 per micro-batch x 16 micro-batches x 2 data-parallel ranks; "
        "12,000 iterations = 0.999 epochs of 768,968 documents"
    )
