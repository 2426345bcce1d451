"""Put the parameters and gradients of a run together from all ranks, as whole fp32 tensors that can be compared.

    parameters, copies_apart = full_parameters(run.chunks)      # {name in a checkpoint: whole tensor}
    gradients, copies_apart = full_gradients(run.chunks)        # after the backward passes, before the optimizer step

Copies are tensors that several ranks hold: data-parallel ranks share all tensors, tensor-parallel ranks the norms, and
the first and the last pipeline stage tied embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, apply_factories
from torch import Tensor

from megatron_train.checkpoint.save_load import sharded_state_dict


def full_parameters(chunks: list[Any]) -> tuple[dict[str, Tensor], float]:
    """Return every parameter of the model by its name in a checkpoint, and the largest difference between copies.

    Tensors are whole and in fp32. The difference is absolute, between two ranks that hold the same values. All ranks
    call this function and get the same result.
    """
    return _full_tensors(chunks, lambda parameter: parameter)


def full_gradients(chunks: list[Any]) -> tuple[dict[str, Tensor], float]:
    """Return the gradient of every parameter, reduced over all ranks, and the largest difference between copies.

    Keys and difference are as in full_parameters. Call the function after the backward passes and before the optimizer
    step, which scales gradients in place. All ranks call this function and get the same result.
    """
    _gather_gradients(chunks)
    return _full_tensors(chunks, lambda parameter: parameter.main_grad.view(parameter.shape))


def _gather_gradients(chunks: list[Any]) -> None:
    """Fill the gradient buffers of this rank with the reduced gradients.

    The distributed optimizer leaves in each data-parallel rank only its own share of them.
    """
    for chunk in chunks:
        for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers):
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                share = bucket.grad_data.chunk(dist.get_world_size(group))[dist.get_rank(group)].clone()
                dist.all_gather_into_tensor(bucket.grad_data, share, group=group)


def _full_tensors(chunks: list[Any], value_of: Callable[[Any], Tensor]) -> tuple[dict[str, Tensor], float]:
    """Return `value_of` each parameter as a whole tensor by name, and the largest difference between copies."""
    state_dict = sharded_state_dict(chunks)
    for entry in nested_values(state_dict):
        if isinstance(entry, ShardedTensor | ShardedTensorFactory):
            entry.data = value_of(entry.data).detach()
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


def perturb_parameters(chunks: list[Any]) -> None:
    """Change initial weights so that a wrong layout shows: add noise to norms and biases, and enlarge all others.

    Unchanged norms are all one and biases all zero, so a rank that reads the wrong ones would give the right result.
    Call the function on one process, and let every layout load its weights.
    """
    with torch.no_grad():
        for chunk in chunks:
            for parameter in chunk.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                else:
                    parameter.mul_(3.0)
            chunk.broadcast_params()
