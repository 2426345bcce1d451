"""Evaluate a model on each evaluation set: loss, perplexity and token accuracy over the target tokens.

The sums over a set are kept in fp64 and divided once at its end. The results therefore do not depend on the
micro-batch size, on packing or on the layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import Data, TrainConfig
from megatron_train.data.loader import BatchMaker, DeviceBatch
from megatron_train.data.sft_dataset import Samples, test_sets, validation_sets
from megatron_train.parallel.distributed import sum_over_ranks
from megatron_train.parallel.schedule import run_schedule

MICROBATCHES_PER_CALL = 8
"""Micro-batches given to the pipeline in one call. The number bounds memory and changes no result."""

Results = dict[str, dict[str, float]]
"""Name of an evaluation set -> {loss, ppl, token_accuracy, num_target_tokens}.

`loss` and `token_accuracy` are means over the target tokens, and `ppl`, the perplexity, is at most e^20. All three are
NaN for a set without target tokens. `num_target_tokens` is the sum of the loss weights.
"""


@dataclass(frozen=True)
class EvaluationSets:
    """The evaluation data of a run. Each field maps the name of a set to its samples."""

    valid: dict[str, Samples] = field(default_factory=dict)
    """Sets that are evaluated during training."""
    test: dict[str, Samples] = field(default_factory=dict)
    """Sets that are evaluated once, when training has finished."""

    @classmethod
    def of(cls, data: Data, seed: int) -> EvaluationSets:
        """Return the validation and test sets that the settings name.

        Raises ConfigError when two validation sets or two test sets have the same name, or a set has no documents.
        """
        return cls(validation_sets(data, seed), test_sets(data, seed))

    def by_name(self) -> dict[str, Samples]:
        """Return all sets. A test set with the name of a validation set is called `NAME (test)`."""
        return self.valid | {f"{name} (test)" if name in self.valid else name: own for name, own in self.test.items()}


@dataclass(frozen=True)
class EvaluationBatches:
    """Makes the micro-batches that this rank evaluates: its share of each evaluation set.

    All ranks together evaluate a set once, or its first `eval_iters` global batches.
    """

    config: TrainConfig
    layout: ParallelLayout
    make_batch: BatchMaker

    def __call__(self, samples: Samples) -> Iterator[list[DeviceBatch]]:
        """Yield this rank's micro-batches of `samples` in lists. Each list is for one call of the pipeline.

        Every rank gets the same number of micro-batches. Rows past the end of the evaluated samples are padding without
        loss.
        """
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
    """Evaluate the model `chunks` on each of `sets`, and return the results, which are the same on every rank.

    All ranks call `interrupted` before each call of the pipeline. Once it returns something true, the evaluation stops
    and returns an empty dict.
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
    """Add up the `totals` (loss, weight, correct predictions) of all ranks, and return the results of one set.

    All ranks call this function. Loss, perplexity and accuracy are NaN for a set without target tokens.
    """
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


def _forward_step(data_iterator: Iterator[DeviceBatch], model: Any) -> tuple[Tensor, Any]:
    """Run the model on the next micro-batch. Return the logits and the function that megatron-core calls with them."""
    batch = next(data_iterator)
    logits = model(batch.tokens, batch.position_ids, None, packed_seq_params=batch.packed)
    return logits, partial(_sums, batch)


def _sums(batch: DeviceBatch, logits: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the triple that megatron-core expects of one micro-batch: (loss, token count, report).

    `logits` has the shape [b, s, vocabulary / tp]. The report's `sums` is an fp64 tensor of shape [3]: the loss,
    the loss weight and the correct predictions, each summed over the target tokens.
    """
    losses = vocab_parallel_cross_entropy(
        logits.float().transpose(0, 1).contiguous(), batch.labels.transpose(0, 1).contiguous()
    )
    mask = batch.loss_mask.double()
    loss_sum = torch.where(mask > 0, losses.transpose(0, 1).double() * mask, 0.0).sum()
    correct = ((predicted_ids(logits) == batch.labels).double() * mask).sum()
    sums = torch.stack([loss_sum, mask.sum(), correct])
    return loss_sum, torch.ones((), dtype=torch.int, device=logits.device), {"sums": sums}


def predicted_ids(logits: Tensor) -> Tensor:
    """Return the token id with the largest logit for each position, as [b, s], from `logits` [b, s, vocabulary / tp].

    Of several equal logits the lowest id wins, as in `logits.argmax(-1)` over the whole vocabulary. Logits in bf16
    are often equal.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    own = logits.argmax(dim=-1)
    if dist.get_world_size(group) == 1:
        return own
    largest = torch.gather(logits, -1, own.unsqueeze(-1)).squeeze(-1).float()
    best = largest.clone()
    dist.all_reduce(best, dist.ReduceOp.MAX, group=group)
    first = parallel_state.get_tensor_model_parallel_rank() * logits.shape[-1]
    ids = torch.where(largest == best, own + first, torch.iinfo(own.dtype).max)
    dist.all_reduce(ids, dist.ReduceOp.MIN, group=group)
    return ids
