"""Convert the optimizer's tensors between whole tensors on disk and pieces on the data-parallel ranks.

Each data-parallel rank holds a range of the flattened parameters. A checkpoint holds whole tensors, so that any layout
can load it. To save, each rank gets only the tensors that it writes itself, one at a time: see piece_exchange.py. To
load, each rank reads only the tensors of which it holds a piece: first all main weights, then all first moments, then
all second moments. So the extra memory for loading is a third of the rank's own share of the state.

    state = sharded_optimizer_state(optimizer, model_state)                      # for saving: tensors without data

    tensors = tensors_to_load(optimizer, model_state, "exp_avg")                 # for each of STATE_KEYS
    ... megatron-core reads them ...
    take_pieces(optimizer, "exp_avg", tensors)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from torch import Tensor

STATE_KEYS = ("param", "exp_avg", "exp_avg_sq")
"""Keys of the optimizer's three tensors of each parameter: the fp32 main weight and Adam's two moments."""
PREFIX = "optimizer.state"


class Piece(NamedTuple):
    """A range of the flattened elements of one parameter, from `start` up to but not including `end`."""

    start: int
    end: int


def sharded_optimizer_state(optimizer: Any, model_state: Any) -> dict[str, Any]:
    """Return the optimizer's state for saving, in megatron-core's format `fully_reshardable`.

    `model_state` holds the model's sharded tensors. The tensors of the result are meta tensors, without data.
    """
    (part,) = optimizer.chained_optimizers
    metadata = _metadata_of_parameters(model_state)
    state = optimizer_settings(optimizer)
    state["param_state"] = {
        index: {key: _sharded(metadata[parameter], key, "meta") for key in STATE_KEYS}
        for index, parameter in enumerate(parameters_of(part))
    }
    state["param_state_sharding_type"] = "fully_reshardable"
    return state


def optimizer_settings(optimizer: Any) -> dict[str, Any]:
    """Return the optimizer's state without tensors: parameter groups with their step count, and the loss scale."""
    (part,) = optimizer.chained_optimizers
    settings: dict[str, Any] = part.state_dict()
    return settings


def tensors_to_load(optimizer: Any, model_state: Any, state_key: str) -> dict[int, Any]:
    """Return an empty CPU tensor to load `state_key` into, for each parameter of which this rank holds a piece.

    `model_state` holds the model's sharded tensors. The keys are the numbers of the parameters.
    """
    (part,) = optimizer.chained_optimizers
    held, metadata = pieces_of(part), _metadata_of_parameters(model_state)
    return {
        index: _sharded(metadata[parameter], state_key, "cpu")
        for index, parameter in enumerate(parameters_of(part))
        if parameter in held
    }


@torch.no_grad()
def take_pieces(optimizer: Any, state_key: str, tensors: dict[int, Tensor]) -> None:
    """Copy this rank's pieces of loaded tensors into the optimizer's `state_key`, such as `exp_avg`.

    `tensors` is {number of the parameter: whole tensor}, as tensors_to_load makes it. Each tensor is removed from it
    after its copy, so that its memory is freed.
    """
    (part,) = optimizer.chained_optimizers
    held = pieces_of(part)
    for index, parameter in enumerate(parameters_of(part)):
        if parameter in held:
            start, end = held[parameter]
            own = part._get_main_param_and_optimizer_states(parameter)[state_key]
            own.copy_(tensors.pop(index).view(-1)[start:end])


def merge_without_copy(factory: ShardedTensorFactory) -> None:
    """Make `factory` return its own tensor after loading, if all parts were loaded into that tensor.

    megatron-core would concatenate the parts into a second tensor. SwiGLU weights are saved in two parts.
    """
    whole, concatenate = factory.data, factory.merge_fn

    def merge(parts: list[Tensor]) -> Tensor:
        is_inside = all(storage_of(part) == storage_of(whole) for part in parts)
        merged: Tensor = whole if is_inside else concatenate(parts)
        return merged

    factory.merge_fn = merge


def storage_of(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage, which all views of the tensor share."""
    return int(tensor.untyped_storage()._cdata)


def pieces_of(part: Any) -> dict[Any, Piece]:
    """Return the piece of each parameter that this rank holds in `part`, megatron-core's DistributedOptimizer.

    Parameters without a piece on this rank are left out.
    """
    return {
        parameter: Piece(ranges["param"].start, ranges["param"].end)
        for buffer in part.gbuf_ranges
        for buckets in buffer.values()
        for bucket in buckets
        for parameter, ranges in bucket["param_map"].items()
        if ranges["param"].end > ranges["param"].start
    }


def parameters_of(part: Any) -> Iterator[Any]:
    """Yield all parameters of the optimizer in megatron-core's order, which numbers them in `param_state`."""
    for buffer in part.buffers:
        yield from buffer.param_index_map


def _metadata_of_parameters(model_state: Any) -> dict[Any, Any]:
    """Return the sharded tensor of each parameter in `model_state`, by parameter."""
    kinds = (ShardedTensor, ShardedTensorFactory)
    return {tensor.data: tensor for tensor in nested_values(model_state) if isinstance(tensor, kinds)}


def _sharded(metadata: Any, state_key: str, place: str) -> Any:
    """Return an empty sharded tensor for the `state_key` of a parameter, on the device `place`.

    `metadata` is the model's sharded tensor of the parameter, from which it takes shape and sharding.
    """
    data = torch.empty(metadata.data.shape, dtype=torch.float32, device=torch.device(place))
    dtype = {} if isinstance(metadata, ShardedTensorFactory) else {"dtype": data.dtype}
    return replace(metadata, key=f"{PREFIX}.{state_key}.{metadata.key}", data=data, **dtype)
