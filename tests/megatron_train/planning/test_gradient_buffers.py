from __future__ import annotations

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.planning.gradient_buffers import (
    Bucket,
    Parameter,
    buffer_buckets,
    chunk_parameters,
    optimizer_elements,
)
from tests.megatron_train.models import MODELS


def test_tied_embeddings_are_held_once_on_one_stage_and_twice_on_two() -> None:
    falcon = MODELS["falcon_7b"]
    rows = falcon.padded_vocab * falcon.hidden_size
    whole = sum(parameter.numel for parameter in chunk_parameters(falcon, ParallelLayout(2, 1, 1), 0))
    halves = [sum(p.numel for p in chunk_parameters(falcon, ParallelLayout(2, 1, 2), stage)) for stage in (0, 1)]
    assert whole == falcon.num_parameters(falcon.padded_vocab)
    assert sum(halves) == whole + rows


def test_weights_start_at_multiples_of_64_and_buckets_end_at_multiples_of_128() -> None:
    layout = ParallelLayout(2, 1, 1)
    buckets = buffer_buckets([Parameter(100), Parameter(70)], layout, bucketed=False)
    assert buckets == [Bucket(0, 256, ((0, 70), (128, 228)))]
    assert [optimizer_elements([buckets], 2, rank) for rank in (0, 1)] == [70, 100]
    tied = buffer_buckets([Parameter(100, own_bucket=True), Parameter(70)], layout, bucketed=False)
    assert tied == [Bucket(0, 128, ((0, 70),)), Bucket(128, 256, ((128, 228),))]
