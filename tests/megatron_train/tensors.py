"""Whole tensors of a run and the losses of single documents, for comparisons in tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch import Tensor

from megatron_train.checkpoint.save_load import _sharded_state_dict
from megatron_train.data.batch import Document
from megatron_train.data.document_set import DocumentSet
from megatron_train.run import Run


def full_parameters(chunks: list[Any]) -> tuple[dict[str, Tensor], float]:
    """Return every tensor of the model in fp32, joined from all ranks, and the largest difference between copies.

    Data-parallel ranks hold copies of all tensors, tensor-parallel ranks copies of the norms, and the first and the
    last stage copies of tied embeddings. Every rank returns the same.
    """
    state_dict = _sharded_state_dict(chunks, None, loading=False)
    apply_factories(state_dict)
    own = [
        (shard.key, shard.global_shape, shard.global_offset, shard.data.detach().float().clone())
        for shard in nested_values(state_dict)
        if isinstance(shard, ShardedTensor)
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    full: dict[str, Tensor] = {}
    apart = 0.0
    for key, shape, offset, tensor in (item for shards in everyone for item in shards):
        target = full.setdefault(key, torch.full(shape, float("nan")))
        tensor = tensor.reshape((1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape))
        place = tuple(slice(o, o + n) for o, n in zip(offset, tensor.shape, strict=True))
        if not target[place].isnan().any():
            apart = max(apart, float((target[place] - tensor).abs().max()))
        target[place] = tensor
    return full, apart


def full_gradients(chunks: list[Any]) -> dict[str, Tensor]:
    """Return the gradients of the last iteration, joined from all ranks of one data-parallel rank."""
    kept = [(parameter, parameter.data) for chunk in chunks for parameter in chunk.parameters()]
    for parameter, _ in kept:
        parameter.data = parameter.main_grad.clone().view(parameter.shape)
    gradients = full_parameters(chunks)[0]
    for parameter, data in kept:
        parameter.data = data
    return gradients


def losses_one_by_one(run: Run, documents: list[Document]) -> tuple[Tensor, int, int]:
    """Return summed loss, targets and right predictions of the documents one by one, by torch's cross-entropy."""
    total, targets, right = torch.zeros(()), 0, 0
    for tokens, roles in documents:
        ids = torch.tensor(tokens.astype(np.int64))[None]
        logits = run.chunks[0](ids[:, :-1], torch.arange(ids.shape[1] - 1)[None], None)
        wanted = torch.tensor(roles[1:].astype(np.int64)) == 2
        picked, labels = logits[0][wanted], ids[0, 1:][wanted]
        total = total + torch.nn.functional.cross_entropy(picked, labels, reduction="sum")
        targets, right = targets + len(labels), right + int((picked.argmax(-1) == labels).sum())
    return total, targets, right


def documents_of(prefix: str) -> list[Document]:
    """Return all documents of a shard."""
    documents = DocumentSet([prefix])
    return [documents.piece(index, 0, int(size)) for index, size in enumerate(documents.lengths)]
