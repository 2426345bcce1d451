"""Cross-entropy loss computed from hidden states in chunks, with the vocabulary split over tensor-parallel ranks.

The fp32 logits of all positions and their gradient would be the largest tensors of a fine-tuning run. Here logits exist
for one chunk of targets at a time, and only for positions that count in the loss. The forward pass also computes the
gradient of each chunk, so no logits are computed twice. The backward pass only multiplies it by the incoming gradient.

Shapes: n = targets, h = hidden size, v = vocabulary rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_train.data.loss_targets import Targets


class GPTModelWithLoss(GPTModel):
    """GPTModel whose last stage returns the weighted sum of the losses, a scalar, when `labels` is a Targets.

    With other labels, or without any, it returns what GPTModel returns.
    """

    vocab_size_in_use = 0
    """Number of vocabulary rows that stand for token ids. The rows after them are padding. model/build.py sets it."""
    loss_chunk_size = 1024
    """Number of targets whose logits are in memory at the same time. model/build.py sets it."""

    def _postprocess(self, hidden_states: Tensor, labels: Any = None, **rest: Any) -> Any:
        if not (self.post_process and isinstance(labels, Targets)):
            return super()._postprocess(hidden_states=hidden_states, labels=labels, **rest)
        for hook in self.output_layer._forward_pre_hooks.values():
            hook(self.output_layer, ())  # with overlap_param_gather, the hooks wait for the layer's weights
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        if self.config.sequence_parallel:
            hidden_states = gather_from_sequence_parallel_region(hidden_states)
        else:
            hidden_states = copy_to_tensor_model_parallel_region(hidden_states)
        hidden = hidden_states.flatten(0, 1).index_select(0, labels.positions)
        first = parallel_state.get_tensor_model_parallel_rank() * weight.shape[0]
        rows = VocabularyRows(
            first=first,
            in_use=min(max(self.vocab_size_in_use - first, 0), weight.shape[0]),
            group=parallel_state.get_tensor_model_parallel_group(),
        )
        return weighted_loss_sum(hidden, weight, labels.labels, labels.weights, rows, self.loss_chunk_size)


@dataclass(frozen=True)
class VocabularyRows:
    """The vocabulary rows that one tensor-parallel rank holds, in the output weights and in the logits."""

    first: int
    """Token id of the first row."""
    in_use: int
    """Number of rows that stand for token ids. The padding rows after them get probability 0."""
    group: Any = None
    """Process group of the ranks that hold the other rows; None = this rank holds all rows."""

    def reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        """All-reduce `tensor` in place over the ranks that share the vocabulary, and return it."""
        if self.group is not None and dist.get_world_size(self.group) > 1:
            dist.all_reduce(tensor, operation, group=self.group)
        return tensor


def weighted_loss_sum(
    hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, rows: VocabularyRows, chunk_size: int
) -> Tensor:
    """Return the fp32 sum of the cross-entropies of `labels` [n], weighted by `weights` [n].

    `hidden` [n, h] has the hidden state of each of the n targets, and `weight` [v, h] this rank's output weights.
    Logits exist for `chunk_size` targets at a time. The gradient of `hidden` is this rank's part: its sum over the
    tensor-parallel ranks is the full gradient.
    """
    out: Tensor = _WeightedLossSum.apply(hidden, weight, labels, weights, rows, chunk_size)
    return out


class _WeightedLossSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, rows: VocabularyRows, size: int
    ) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        if needs_gradient:
            hidden_gradient = torch.empty_like(hidden)
            weight_gradient = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            losses, gradient = _chunk(hidden[part], weight, labels[part], weights[part], rows)
            loss += (losses * weights[part]).sum()
            if needs_gradient:
                torch.mm(gradient, weight, out=hidden_gradient[part])
                if weight.dtype == torch.float32:
                    weight_gradient.addmm_(gradient.t(), hidden[part])
                else:
                    weight_gradient.add_(gradient.t() @ hidden[part])
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
            ctx.dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> Any:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient.mul_(factor), weight_gradient.mul_(factor).to(ctx.dtype), None, None, None, None


def _chunk(
    hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, rows: VocabularyRows
) -> tuple[Tensor, Tensor]:
    """Return the losses [n] of one chunk, and the gradient [n, v] of their weighted sum with respect to the logits."""
    logits = (hidden @ weight.t()).float()
    logits[:, rows.in_use :] = float("-inf")
    top = rows.reduce(logits.amax(-1), dist.ReduceOp.MAX)
    logits.sub_(top[:, None])
    local = labels - rows.first
    is_here = (local >= 0) & (local < weight.shape[0])
    column = local.clamp(0, weight.shape[0] - 1)[:, None]
    own = torch.where(is_here, logits.gather(1, column).squeeze(1), 0.0)
    sums = torch.stack([own, logits.exp_().sum(-1)])
    of_label, total = rows.reduce(sums, dist.ReduceOp.SUM)
    logits.mul_((weights / total)[:, None])  # the weighted softmax
    logits.scatter_add_(1, column, torch.where(is_here, -weights, 0.0)[:, None])
    return total.log() - of_label, logits.to(weight.dtype)
