"""Compute how much GPU memory one rank of a training run needs, from the settings alone and without torch.

Weights, gradient buffers and optimizer state are exact with their padding: tests compare them with megatron-core's own
buffers. Activations, logits and communication buffers are estimates. In the code, t is the tensor-parallel size; s is
t if sequence parallelism splits tokens over the ranks, else 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.planning.gradient_buffers import (
    buffer_buckets,
    chunk_parameters,
    is_bucketed,
    optimizer_elements,
)

FIXED_BYTES = int(1.5 * 2**30)
"""Bytes that a rank holds before it has a model: CUDA context, NCCL channels and cuBLAS workspaces."""
FILES_OF_RANK = 2
"""Number of checkpoint files that a rank writes at the same time, with one fp32 tensor of each in memory."""


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
    """Host memory that a save needs."""
    loading: int
    """Host memory that a load needs: a third of this rank's share of the fp32 optimizer state."""

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
        buffer_buckets(chunk, layout, bucketed=is_bucketed(config, stage, index)) for index, chunk in enumerate(chunks)
    ]
    padded = sum(bucket.end - bucket.start for chunk in buckets for bucket in chunk)
    shard = max(optimizer_elements(buckets, layout.dp, rank) for rank in range(layout.dp))
    largest = max(parameter.numel for chunk in chunks for parameter in chunk)
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
        saving=padded * size // layout.dp
        + (shard * 12 if config.checkpoint.async_save else FILES_OF_RANK * largest * 4),
        loading=shard * 4,
    )


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
