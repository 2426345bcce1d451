"""Compute how much GPU memory one rank of a training run needs, from the settings alone and without torch.

Weights, gradient buffers and optimizer state are exact with their padding: tests compare them with megatron-core's own
buffers. Activations, logits and communication buffers are estimates. In the code, t is the tensor-parallel size; s is
t if sequence parallelism splits tokens over the ranks, else 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig

BUCKET_ELEMENTS = 40_000_000
"""With overlap_grad_reduce, megatron-core closes a gradient bucket once it has at least this many elements."""
FIXED_BYTES = int(1.5 * 2**30)
"""Bytes that a rank holds before it has a model: CUDA context, NCCL channels and cuBLAS workspaces."""


@dataclass(frozen=True)
class StageMemory:
    """The GPU memory that one rank of a pipeline stage needs, by purpose.

    `layers` and `parameters` are counts, of transformer layers and of weight elements. The other fields are in bytes.
    """

    stage: int
    layers: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    """Communication buffers, temporary tensors of the largest module, and FIXED_BYTES."""
    saving: int
    """Host memory during a save: this rank's share of the fp32 optimizer state. A load needs a third of it."""

    @property
    def total(self) -> int:
        """Peak GPU memory of the rank in bytes, in the forward and backward pass. The optimizer step adds nothing."""
        return self.weights + self.gradients + self.optimizer + self.buffers + self.activations + self.logits


def weight_bytes(config: TrainConfig) -> int:
    """Return the bytes of one weight element in the model's precision: 2 in bf16 or fp16, else 4."""
    return 2 if config.model.bf16 or config.model.fp16 else 4


def stage_memory(model: ModelConfig, config: TrainConfig, layout: ParallelLayout, stage: int) -> StageMemory:
    """Return the memory of the rank that needs the most memory in pipeline stage `stage`."""
    size = weight_bytes(config)
    chunks = [chunk_parameters(model, layout, stage, chunk) for chunk in range(layout.vpp)]
    buckets = [
        buffer_buckets(chunk, layout, config, bucketed=_is_bucketed(config, stage, index))
        for index, chunk in enumerate(chunks)
    ]
    padded = sum(bucket.end - bucket.start for chunk in buckets for bucket in chunk)
    shard = max(optimizer_elements(buckets, layout.dp, rank) for rank in range(layout.dp))
    tokens = config.batch.micro_batch_size * config.data.seq_length
    return StageMemory(
        stage=stage,
        layers=sum(len(layout.layers_of_stage(model.num_layers, stage, chunk)) for chunk in range(layout.vpp)),
        parameters=sum(sum(parameter.numel for parameter in chunk) for chunk in chunks),
        weights=padded * size,
        gradients=padded * 4,
        optimizer=shard * (12 if size == 2 else 8),
        activations=stage_activations(model, config, layout, stage),
        logits=logits_bytes(model, config, layout, tokens) if stage == layout.pp - 1 else 0,
        buffers=FIXED_BYTES + working_bytes(model, config, layout, tokens),
        saving=shard * 12,
    )


# Weights, gradients, optimizer state -----------------------------------------------------------------------------


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


def _is_bucketed(config: TrainConfig, stage: int, chunk: int) -> bool:
    """Return whether megatron-core splits the gradient buffer of a model chunk into several buckets.

    It does so with overlap_grad_reduce on stage 0. Chunks after the first also need overlap_param_gather.
    """
    parallel = config.parallel
    return parallel.overlap_grad_reduce and stage == 0 and (chunk == 0 or parallel.overlap_param_gather)


def buffer_buckets(
    parameters: list[Parameter], layout: ParallelLayout, config: TrainConfig, bucketed: bool
) -> list[Bucket]:
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


# Activations -----------------------------------------------------------------------------------------------------


def layer_activation(model: ModelConfig, config: TrainConfig, layout: ParallelLayout) -> float:
    """Return the bytes per token that one layer saves on a rank for its backward pass, when nothing is recomputed.

    Autograd saves the inputs of the norms, of the four linear layers and of attention, and the intermediate results of
    the MLP. The count assumes that a norm is one kernel; RMSNorm on the CPU is several kernels and saves more.
    """
    size, t = weight_bytes(config), layout.tp
    s = t if config.parallel.sequence_parallel else 1
    hidden = model.hidden_size / s
    queries = model.num_attention_heads * model.head_dim / t
    keys = max(1.0, model.query_groups / t) * model.head_dim
    width = model.ffn_hidden_size / t
    norms = 1 if model.parallel_residual else 2  # parallel branches share their input
    normed = 1 if model.shared_norm else 2
    elements = (norms + normed) * hidden + (queries + 2 * keys) + (queries + keys) + queries
    elements += width * _mlp_products(model)
    masks = (2 if config.model.hidden_dropout > 0 else 0) * hidden
    statistics = 4 * (normed * (1 if model.normalization == "RMSNorm" else 2) / s + model.num_attention_heads / t)
    return elements * size + masks + statistics


def _mlp_products(model: ModelConfig) -> int:
    """Return how many values are saved per token and hidden unit of the MLP for its backward pass.

    SwiGLU saves fewer than other gated units, because model/swiglu.py computes silu(gate) again.
    """
    if not model.gated_linear_unit:
        return 2
    return 3 if model.is_swiglu else 5


def stage_activations(model: ModelConfig, config: TrainConfig, layout: ParallelLayout, stage: int) -> int:
    """Return the peak bytes of activations on one rank of pipeline stage `stage`.

    It counts all micro-batches between their forward and backward pass, and the layers that are being recomputed.
    """
    tokens = config.batch.micro_batch_size * config.data.seq_length
    layer, entry = layer_activation(model, config, layout) * tokens, _entry_bytes(model, config, layout) * tokens
    layers = len(layout.layers_of_stage(model.num_layers, stage))
    settings = config.model
    working = 0.0
    if settings.recompute_granularity == "full":
        group = min(settings.recompute_group(layers) or 1, layers)
        if settings.recompute_method == "uniform":
            chunk, working = layers // group * entry, group * layer
        else:
            chunk, working = group * entry + (layers - group) * layer, layer
    elif settings.recompute_granularity == "selective":
        lse = 4 * model.num_attention_heads / layout.tp * tokens
        chunk = layers * (layer - lse)  # query, key, value and output stay saved
    else:
        chunk = layers * layer
    if stage == layout.pp - 1:
        chunk += 2 * entry  # inputs of the last norm and of the output layer
    return int(chunk * chunks_in_flight(layout, config, stage) + working)


def chunks_in_flight(layout: ParallelLayout, config: TrainConfig, stage: int) -> int:
    """Return how many forward passes of model chunks on `stage` await their backward pass at most.

    The pipeline schedule is 1F1B, or interleaved if a stage has several chunks.
    """
    batches = layout.num_microbatches(config.batch)
    if layout.vpp == 1:
        return min(batches, layout.pp - stage)
    return min(batches * layout.vpp, 2 * (layout.pp - stage - 1) + (layout.vpp - 1) * layout.pp + 1)


def logits_bytes(model: ModelConfig, config: TrainConfig, layout: ParallelLayout, tokens: int) -> int:
    """Return the bytes that computing the loss needs on a rank: a chunk of logits, and fp32 output-weight gradients.

    A 16-bit model holds the chunk as logits, as their fp32 softmax and as their gradient. An fp32 model holds it as one
    tensor and a temporary copy. `tokens` counts the positions of a micro-batch.
    """
    size, rows = weight_bytes(config), model.padded_vocab / layout.tp
    chunk = min(tokens, config.model.loss_chunk_size) * rows * (8 if size == 4 else 4 + 2 * size)
    return int(chunk + rows * model.hidden_size * 4)


def working_bytes(model: ModelConfig, config: TrainConfig, layout: ParallelLayout, tokens: int) -> int:
    """Return the bytes of the temporary tensors of a training step, for micro-batches of `tokens` positions.

    These are the gradients inside one MLP, the gathered sequence of sequence parallelism, pipeline messages, and the
    gradient of the largest weight before it is added to the fp32 buffer.
    """
    size, t = weight_bytes(config), layout.tp
    width = model.ffn_hidden_size / t
    gradients = tokens * size * (width * (5 if model.gated_linear_unit else 2) + 2 * model.hidden_size)
    gathered = tokens * size * model.hidden_size if config.parallel.sequence_parallel and t > 1 else 0
    messages = 4 * tokens * _entry_bytes(model, config, layout) if layout.pp > 1 else 0
    largest = max(parameter.numel for parameter in chunk_parameters(model, ParallelLayout(layout.tp, layout.tp), 0))
    return int(gradients + gathered + messages + largest * size)


def _entry_bytes(model: ModelConfig, config: TrainConfig, layout: ParallelLayout) -> float:
    """Return the bytes per token of the hidden states that enter a layer, on one rank."""
    return model.hidden_size * weight_bytes(config) / (layout.tp if config.parallel.sequence_parallel else 1)
