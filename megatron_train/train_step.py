"""Run one training iteration over this rank's micro-batches: forward, backward, update of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.settings import Optimizer
from megatron_train.data.loader import DeviceBatch
from megatron_train.optim.optimizer import set_rates
from megatron_train.optim.update import apply_update, is_spike
from megatron_train.parallel.distributed import sum_over_ranks
from megatron_train.parallel.schedule import run_schedule
from megatron_train.report.phases import PhaseTimer


@dataclass(frozen=True)
class Update:
    """The optimizer's settings for one iteration, and the condition for skipping its update of the weights."""

    lr: float
    weight_decay: float
    clip_grad: float
    is_unwanted: Callable[[float, float], bool]
    """Function that takes the loss and the gradient norm, and returns whether to skip the update."""


@dataclass(frozen=True)
class BatchSums:
    """Loss and counts of one global batch, summed over all ranks and the same on every rank."""

    loss: float
    """The loss whose gradient updates the weights: a mean over target tokens, as --loss_normalization defines it."""
    num_target_tokens: float
    """Sum of the loss weights. A token of --loss_roles has weight 1."""
    num_tokens: float
    """Row positions that hold a token of a document; padding does not count."""
    squared_lengths: float
    """Sum of the squared document lengths, from which the FLOPs of attention are computed."""


@dataclass(frozen=True)
class StepResult:
    """The result of one training iteration, the same on every rank."""

    sums: BatchSums
    grad_norm: float
    """Global gradient norm before clipping; NaN after an fp16 overflow."""
    is_applied: bool
    """Whether the weights were updated."""


def train_step(
    chunks: list[Any], optimizer: Any, batches: Sequence[DeviceBatch], update: Update, timer: PhaseTimer
) -> StepResult:
    """Run the micro-batches forward and backward, then update the weights unless `update.is_unwanted` forbids it.

    A batch without target tokens leaves the weights unchanged: it gives no gradient, and weight decay must not act
    alone.
    """
    timer.enter("forward_backward")
    sums = global_sums(forward_backward(chunks, optimizer, batches), batches)
    timer.enter("optimizer")
    set_rates(optimizer, update.lr, update.weight_decay)
    is_unwanted = partial(update.is_unwanted, sums.loss) if sums.num_target_tokens else lambda grad_norm: True
    is_applied, grad_norm = apply_update(optimizer, update.clip_grad, is_unwanted)
    return StepResult(sums, grad_norm, is_applied)


def forward_backward(chunks: list[Any], optimizer: Any, batches: Sequence[DeviceBatch]) -> list[dict[str, Tensor]]:
    """Run the micro-batches forward and backward.

    The gradients, reduced over data-parallel ranks, stay in the gradient buffers of the model chunks. Returns one
    {"loss": scalar} per micro-batch on the last pipeline stage, and an empty list on the other stages.
    """
    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    return run_schedule(chunks, batches, _forward_step, forward_only=False)


def _forward_step(data_iterator: Iterator[DeviceBatch], model: Any) -> tuple[Tensor, Any]:
    """Run the model on the next micro-batch. Return the loss sum and the function that megatron-core calls with it."""
    batch = next(data_iterator)
    loss_sum = model(batch.tokens, batch.position_ids, None, labels=batch.targets, packed_seq_params=batch.packed)
    return loss_sum, partial(_scaled_loss, batch)


def _scaled_loss(batch: DeviceBatch, loss_sum: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the triple that megatron-core expects of one micro-batch: (loss, token count, report).

    The loss, which is differentiated, is `loss_sum` times the micro-batch's factor. The count is always 1, because the
    factor already holds the division by the number of target tokens. The report holds the loss.
    """
    loss = loss_sum * batch.loss_factor
    return loss, torch.ones((), dtype=torch.int, device=loss.device), {"loss": loss.detach().double().clone()}


def global_sums(outputs: list[dict[str, Tensor]], batches: Sequence[DeviceBatch]) -> BatchSums:
    """Return the loss and the counts of the global batch, summed over the micro-batches of all ranks.

    `outputs` is the result of forward_backward on this rank. All ranks call this function.
    """
    tp = parallel_state.get_tensor_model_parallel_world_size()
    # Only the last stage has outputs, and its tensor-parallel ranks all have the same ones.
    loss = sum(float(output["loss"]) for output in outputs) / tp
    copies = tp * parallel_state.get_pipeline_model_parallel_world_size()
    counts = [
        sum(float(getattr(b, name)) for b in batches) / copies
        for name in ("loss_weight", "num_tokens", "squared_lengths")
    ]
    return BatchSums(*sum_over_ranks([loss, *counts]))


def is_unwanted(state: TrainState, settings: Optimizer, loss: float, grad_norm: float) -> bool:
    """Return whether to skip the weight update of the iteration that follows `state`.

    The update is skipped when --skip_iters lists the iteration, when the loss is not finite, and when
    --skip_spike_sigma is set and the loss or the gradient norm is a spike.
    """
    if state.iteration + 1 in settings.skip_iters or not math.isfinite(loss):
        return True
    if not settings.skip_spike_sigma:
        return False
    sigma = settings.skip_spike_sigma
    return is_spike(loss, state.recent_losses, sigma) or is_spike(grad_norm, state.recent_grad_norms, sigma)
