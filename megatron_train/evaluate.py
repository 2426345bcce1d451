"""One clean pass over each validation set: loss, perplexity and token accuracy over its target tokens.

The sums are kept in fp64 and divided once, so the results do not depend on the micro-batch size, on packing or on the
layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
"""Micro-batches given to the pipeline at once. The number bounds memory and changes no result."""

Results = dict[str, dict[str, float]]
"""Name of a set -> {loss, ppl, token_accuracy, num_target_tokens}."""


@dataclass(frozen=True)
class EvaluationBatches:
    """Cuts evaluation sets into micro-batches of this rank."""

    config: TrainConfig
    layout: ParallelLayout
    make_batch: BatchMaker

    def __call__(self, samples: Samples) -> Iterator[list[DeviceBatch]]:
        """Yield lists of micro-batches, equally many on every rank. Rows past the end are padding without loss."""
        size, dp, pp = self.config.batch.micro_batch_size, self.layout.dp, self.layout.pp
        rows, per_call = len(samples), MICROBATCHES_PER_CALL
        if self.config.evaluation.eval_iters:
            batch = self.layout.global_batch_size(self.config.batch)
            rows = min(rows, self.config.evaluation.eval_iters * batch)
        num_microbatches = -(-rows // (size * dp))
        if self.layout.vpp > 1:  # the interleaved schedule needs whole rounds of the pipeline
            per_call = -(-per_call // pp) * pp
            num_microbatches = -(-num_microbatches // pp) * pp
        own = parallel_state.get_data_parallel_rank() * size
        for first in range(0, num_microbatches, per_call):
            numbers = range(first, min(first + per_call, num_microbatches))
            starts = [number * size * dp + own for number in numbers]
            yield [self.make_batch(samples, range(start, start + size), rows) for start in starts]


def evaluate(
    chunks: list[Any],
    sets: dict[str, Samples],
    batches: EvaluationBatches,
    interrupted: Callable[[], object] | None = None,
) -> Results:
    """Return the results of each set, the same on every rank.

    `interrupted` is asked between calls of the pipeline, on all ranks. Once it returns something true, the
    evaluation ends and returns nothing.
    """
    for chunk in chunks:
        chunk.eval()
    results: Results = {}
    try:
        with torch.no_grad():
            for name, samples in sets.items():
                totals = torch.zeros(3, dtype=torch.float64)
                for micro_batches in batches(samples):
                    if interrupted is not None and interrupted():
                        return {}
                    for output in run_schedule(chunks, micro_batches, _forward_step, forward_only=True):
                        totals += output["sums"].cpu()
                results[name] = _result(totals.tolist())
    finally:
        for chunk in chunks:
            chunk.train()
    return results


def _result(totals: list[float]) -> dict[str, float]:
    """Turn this rank's sums (loss, weight, correct) into the figures of a set. All ranks call it."""
    # Every tensor-parallel rank of the last stage holds the same sums; the other stages hold zeros.
    tp = parallel_state.get_tensor_model_parallel_world_size()
    loss_sum, weight, correct = (total / tp for total in sum_over_ranks(totals))
    loss = loss_sum / weight if weight else math.nan
    return {
        "loss": loss,
        "ppl": math.exp(min(loss, 20.0)) if weight else math.nan,
        "token_accuracy": correct / weight if weight else math.nan,
        "num_target_tokens": round(weight),
    }


def mean_loss(results: Results) -> float:
    """Return the mean loss of the sets that have target tokens: the best checkpoint is the one where it is lowest."""
    losses = [result["loss"] for result in results.values() if result["num_target_tokens"]]
    return sum(losses) / len(losses) if losses else math.nan


def _forward_step(data_iterator: Iterator[DeviceBatch], model: Any) -> tuple[Tensor, Any]:
    batch = next(data_iterator)
    logits = model(batch.tokens, batch.position_ids, None, packed_seq_params=batch.packed)
    return logits, partial(_sums, batch)


def _sums(batch: DeviceBatch, logits: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Turn `logits` [b, s, vocabulary / tp] into the fp64 sums (loss, weight, correct), all over target tokens."""
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
    return loss_sum, torch.ones((), dtype=torch.int, device=logits.device), {"sums": sums}
