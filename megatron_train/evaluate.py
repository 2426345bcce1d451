"""One clean pass over each validation set: loss, perplexity, token accuracy over its target tokens, exact in any
layout.

Sums are kept in fp64 and divided once, so the result does not depend on micro-batch size, packing or the number of
ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.data.loader import BatchMaker, DeviceBatch
from megatron_train.data.sft_dataset import Samples
from megatron_train.parallel.distributed import sum_over_ranks
from megatron_train.parallel.schedule import run_schedule

MICROBATCHES_PER_CALL = 8
"""Micro-batches handed to a pipeline at once; bounds memory, changes no result."""


def evaluate(
    chunks: list[Any], sets: dict[str, Samples], config: TrainConfig, layout: ParallelLayout, make_batch: BatchMaker
) -> dict[str, dict[str, float]]:
    """Name -> {loss, ppl, token_accuracy, num_target_tokens}; the same numbers on every rank."""
    for chunk in chunks:
        chunk.eval()
    with torch.no_grad():
        results = {name: _evaluate_set(chunks, samples, config, layout, make_batch) for name, samples in sets.items()}
    for chunk in chunks:
        chunk.train()
    return results


def mean_loss(results: dict[str, dict[str, float]]) -> float:
    """Mean of the losses of the sets that have target tokens: what "best by validation" means."""
    losses = [result["loss"] for result in results.values() if result["num_target_tokens"]]
    return sum(losses) / len(losses) if losses else math.nan


def _evaluate_set(
    chunks: list[Any], samples: Samples, config: TrainConfig, layout: ParallelLayout, make_batch: BatchMaker
) -> dict[str, float]:
    totals = [0.0, 0.0, 0.0]
    for batches in _calls(samples, config, layout, make_batch):
        for output in run_schedule(chunks, batches, _forward_step, forward_only=True):
            totals = [total + float(x) for total, x in zip(totals, output["sums"].tolist(), strict=True)]
    # Every tensor-parallel rank of the last stage holds the same sums; the other stages hold zeros.
    loss_sum, weight, correct = (total / layout.tp for total in sum_over_ranks(totals))
    loss = loss_sum / weight if weight else math.nan
    return {
        "loss": loss,
        "ppl": math.exp(min(loss, 20.0)) if weight else math.nan,
        "token_accuracy": correct / weight if weight else math.nan,
        "num_target_tokens": round(weight),
    }


def _calls(
    samples: Samples, config: TrainConfig, layout: ParallelLayout, make_batch: BatchMaker
) -> Iterator[list[DeviceBatch]]:
    """Lists of micro-batches of this rank, equally many on every rank; rows beyond the end are padding without loss."""
    width = config.batch.micro_batch_size * layout.dp
    rows, per_call = len(samples), MICROBATCHES_PER_CALL
    if config.evaluation.eval_iters:
        rows = min(rows, config.evaluation.eval_iters * layout.global_batch_size(config.batch))
    num_microbatches = -(-rows // width)
    if layout.vpp > 1:
        per_call = -(-per_call // layout.pp) * layout.pp
        num_microbatches = -(-num_microbatches // layout.pp) * layout.pp
    own = parallel_state.get_data_parallel_rank() * config.batch.micro_batch_size
    for first in range(0, num_microbatches, per_call):
        numbers = range(first, min(first + per_call, num_microbatches))
        starts = [number * width + own for number in numbers]
        yield [make_batch(samples, range(s, s + config.batch.micro_batch_size), rows) for s in starts]


def _forward_step(data_iterator: Iterator[DeviceBatch], model: Any) -> tuple[Tensor, Any]:
    batch = next(data_iterator)
    logits = model(batch.tokens, batch.position_ids, None, packed_seq_params=batch.packed)
    return logits, partial(_sums, batch)


def _sums(batch: DeviceBatch, logits: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """`logits` [b, s, vocabulary / tp] -> (loss_sum, weight, correct) as fp64."""
    group = parallel_state.get_tensor_model_parallel_group()
    first = parallel_state.get_tensor_model_parallel_rank() * logits.shape[-1]
    local = batch.labels - first
    inside = (local >= 0) & (local < logits.shape[-1])
    own = torch.gather(logits, -1, local.clamp(0, logits.shape[-1] - 1).unsqueeze(-1)).squeeze(-1).float()
    label_logit = torch.where(inside, own, float("-inf"))
    best = logits.max(dim=-1).values.float()
    if dist.get_world_size(group) > 1:
        dist.all_reduce(label_logit, dist.ReduceOp.MAX, group=group)
        dist.all_reduce(best, dist.ReduceOp.MAX, group=group)
    losses = vocab_parallel_cross_entropy(
        logits.float().transpose(0, 1).contiguous(), batch.labels.transpose(0, 1).contiguous()
    )
    mask = batch.loss_mask.double()
    loss_sum = torch.where(mask > 0, losses.transpose(0, 1).double() * mask, 0.0).sum()
    correct = ((label_logit >= best).double() * mask).sum()
    sums = torch.stack([loss_sum, mask.sum(), correct])
    return loss_sum, torch.tensor(1, dtype=torch.int, device=logits.device), {"sums": sums}
