"""Lay out the weights of a rank in gradient buffers as megatron-core does, from the settings alone and without torch.

Sizes are exact with their padding: tests compare them with megatron-core's own buffers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig

BUCKET_ELEMENTS = 40_000_000
"""With overlap_grad_reduce, megatron-core closes a gradient bucket once it has at least this many elements."""


@dataclass(frozen=True)
class Parameter:
    """The part of one weight that a rank holds: its number of elements, `numel`."""

    numel: int
    own_bucket: bool = False
    """Whether megatron-core puts the weight into a bucket of its own, as it does with tied embeddings in a pipeline."""


@dataclass(frozen=True)
class Bucket:
    """One bucket of a gradient buffer: megatron-core reduces the gradients of a bucket together.

    The bucket covers the elements [start, end) of the buffer. `parameters` has the element range of each weight in it.
    """

    start: int
    end: int
    parameters: tuple[tuple[int, int], ...]


def chunk_parameters(model: ModelConfig, layout: ParallelLayout, stage: int, chunk: int = 0) -> list[Parameter]:
    """Return the weights that one rank holds of model chunk `chunk` on `stage`, in megatron-core's order.

    The order is embedding (first chunk of the model only), layers, last norm and output layer (last chunk only).
    """
    tied, hidden = model.share_embeddings_and_output_weights, model.hidden_size
    rows = Parameter(model.padded_vocab // layout.tp * hidden, own_bucket=tied and layout.pp > 1)
    norm = [Parameter(hidden)] * (1 if model.normalization == "RMSNorm" else 2)
    first = stage == 0 and chunk == 0
    last = stage == layout.pp - 1 and chunk == layout.vpp - 1
    found = [rows] if first else []
    for _ in layout.layers_of_stage(model.num_layers, stage, chunk):
        found += layer_parameters(model, layout.tp, norm)
    if last:
        found += norm
        if not (tied and first):
            found.append(rows)
    return found


def layer_parameters(model: ModelConfig, tp: int, norm: list[Parameter]) -> list[Parameter]:
    """Return the weights of a transformer layer that one of `tp` tensor-parallel ranks holds, in megatron-core's order.

    `norm` has the weights of one norm.
    """
    hidden = model.hidden_size
    queries = model.num_attention_heads * model.head_dim
    qkv = (queries + 2 * model.query_groups * model.head_dim) // tp
    fc1 = model.ffn_hidden_size * (2 if model.gated_linear_unit else 1) // tp
    qkv_bias = model.has_attention_bias or model.add_qkv_bias
    return [
        *norm,
        Parameter(hidden * queries // tp),
        *([Parameter(hidden)] if model.has_attention_bias else []),
        Parameter(qkv * hidden),
        *([Parameter(qkv)] if qkv_bias else []),
        *([Parameter(model.head_dim)] * 2 if model.qk_layernorm else []),
        *([] if model.shared_norm else norm),
        Parameter(fc1 * hidden),
        *([Parameter(fc1)] if model.has_mlp_bias else []),
        Parameter(hidden * model.ffn_hidden_size // tp),
        *([Parameter(hidden)] if model.has_mlp_bias else []),
    ]


def is_bucketed(config: TrainConfig, stage: int, chunk: int) -> bool:
    """Return whether megatron-core splits the gradient buffer of a model chunk into several buckets.

    It does so with overlap_grad_reduce on stage 0. Chunks after the first also need overlap_param_gather.
    """
    parallel = config.parallel
    return parallel.overlap_grad_reduce and stage == 0 and (chunk == 0 or parallel.overlap_param_gather)


def buffer_buckets(parameters: list[Parameter], layout: ParallelLayout, bucketed: bool) -> list[Bucket]:
    """Return the buckets into which megatron-core 0.16.1 divides the gradient buffer of one model chunk.

    The buffer holds `parameters` in reverse order. Each starts at a multiple of 64 elements, and each bucket ends at a
    multiple of lcm(dp, 128). With `bucketed`, a bucket also ends when it reaches megatron-core's size limit. A weight
    with `own_bucket`, such as a tied embedding, always has a bucket to itself.
    """
    limit = max(BUCKET_ELEMENTS, 1_000_000 * layout.dp) if bucketed else None
    multiple = math.lcm(layout.dp, 128)
    buckets: list[Bucket] = []
    inside: list[tuple[int, int]] = []
    start = position = 0

    def close(end: int) -> int:
        nonlocal start, inside
        padded = -(-end // multiple) * multiple
        buckets.append(Bucket(start, padded, tuple(inside)))
        start, inside = padded, []
        return padded

    for parameter in reversed(parameters):
        position = -(-position // 64) * 64
        if parameter.own_bucket and inside:
            position = close(position)
        inside.append((position, position + parameter.numel))
        position += parameter.numel
        if parameter.own_bucket or (limit is not None and position - start >= limit):
            position = close(position)
    if inside:
        close(position)
    return buckets


def optimizer_elements(buckets: list[list[Bucket]], dp: int, rank: int) -> int:
    """Return how many weight elements data-parallel rank `rank` of `dp` updates.

    It updates its share of every bucket, without the padding. `buckets` has a list of buckets for each model chunk.
    """
    count = 0
    for bucket in (bucket for chunk in buckets for bucket in chunk):
        share = (bucket.end - bucket.start) // dp
        low, high = bucket.start + rank * share, bucket.start + (rank + 1) * share
        count += sum(max(0, min(end, high) - max(start, low)) for start, end in bucket.parameters)
    return count
