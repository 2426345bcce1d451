"""Convert the optimizer's tensors between whole tensors on disk and pieces on the data-parallel ranks.

Each data-parallel rank holds a range of the flattened parameters. A checkpoint holds whole tensors, so that any layout
can load it. To save, each rank gets only the tensors that it writes itself, one at a time, from the ranks that hold
their pieces. To load, each rank reads only the tensors of which it holds a piece: first all main weights, then all
first moments, then all second moments. So the extra memory for saving is as large as the rank's own share of the state,
and that for loading a third of it.

    state = sharded_optimizer_state(optimizer, model_state)                      # tensors without data
    ... megatron-core chooses the rank that writes each tensor ...
    gather_pieces(optimizer, sources_of(state), tensors, group)                  # the data of this rank's own tensors

    tensors = tensors_to_load(optimizer, model_state, "exp_avg")                 # for each of STATE_KEYS
    ... megatron-core reads them ...
    take_pieces(optimizer, "exp_avg", tensors)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, is_main_replica
from torch import Tensor

from megatron_train.parallel.distributed import device

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
        for index, parameter in enumerate(_parameters(part))
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
        for index, parameter in enumerate(_parameters(part))
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
    for index, parameter in enumerate(_parameters(part)):
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
        is_inside = all(_storage(part) == _storage(whole) for part in parts)
        merged: Tensor = whole if is_inside else concatenate(parts)
        return merged

    factory.merge_fn = merge


class Source(NamedTuple):
    """The optimizer tensor that is saved as a checkpoint's tensor: `state_key` of the parameter `number`."""

    state_key: str
    number: int
    """Number of the parameter, the same on all data-parallel ranks."""


def sources_of(state: dict[str, Any]) -> dict[int, Source]:
    """Return the Source of each meta tensor in `state`, by the identity of the tensor's storage.

    megatron-core may replace a tensor by views of it, which share its storage.
    """
    return {
        _storage(sharded.data): Source(key, number)
        for number, tensors in state["param_state"].items()
        for key, sharded in tensors.items()
    }


def gather_pieces(optimizer: Any, sources: dict[int, Source], sharded_state_dict: Any, group: Any) -> list[Tensor]:
    """Fill the meta tensors in `sharded_state_dict` that this rank writes, from their pieces on the ranks of `group`.

    `sources` says which optimizer tensor each of them is. All ranks of `group` call this function. It returns the
    tensors that it allocates. If this rank itself holds the whole data of a tensor, the tensor uses that memory, and
    nothing is allocated.
    """
    (part,) = optimizer.chained_optimizers
    parameters, held = list(_parameters(part)), pieces_of(part)
    tensors = [
        tensor
        for tensor in nested_values(sharded_state_dict)
        if isinstance(tensor, ShardedTensor) and tensor.data is not None and tensor.data.is_meta
    ]
    everyone: list[Any] = [None] * dist.get_world_size(group)
    own_pieces = {index: held[parameter] for index, parameter in enumerate(parameters) if parameter in held}
    own_tensors = [number for number, tensor in enumerate(tensors) if is_main_replica(tensor.replica_id)]
    dist.all_gather_object(everyone, (own_pieces, own_tensors), group=group)
    pieces, queues = [rank[0] for rank in everyone], [rank[1] for rank in everyone]

    def local(source: Source) -> Tensor:
        """Return the flat piece of the source that this rank holds."""
        state = part._get_main_param_and_optimizer_states(parameters[source.number])
        flat: Tensor = state[source.state_key].detach()
        return flat

    new: list[Tensor] = []
    for place in range(max(map(len, queues))):  # in each round, every rank receives one of the tensors that it writes
        exchange = _Exchange(group)
        for owner, queue in enumerate(queues):
            if place < len(queue):
                tensor = tensors[queue[place]]
                exchange.add(tensor, sources[_storage(tensor.data)], owner, pieces, local)
        new += exchange.run()
    return new


def _storage(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage, which all views of the tensor share."""
    return int(tensor.untyped_storage()._cdata)


class _Exchange:
    """One round of messages that brings pieces of tensors to their owners, with at most one tensor per owner.

    The owner of a tensor is the rank that writes it to the checkpoint.
    """

    def __init__(self, group: Any) -> None:
        self.group, self.rank = group, dist.get_rank(group)
        self.operations: list[Any] = []
        self.received: tuple[ShardedTensor, Tensor] | None = None

    def add(
        self, tensor: ShardedTensor, source: Source, owner: int, pieces: list[dict[int, Piece]], local: Any
    ) -> None:
        """Prepare the sends and receives that bring the pieces of `tensor` to its `owner`.

        `pieces` holds each rank's pieces by parameter number, and `local` returns this rank's piece of a source.
        """
        view = tensor.data  # a meta tensor: a view of the parameter, or of a part that megatron-core splits off
        assert view.is_contiguous()
        wanted = Piece(view.storage_offset(), view.storage_offset() + view.numel())
        overlaps = [_overlap(rank.get(source.number), wanted) for rank in pieces]
        if owner == self.rank and overlaps[owner] == wanted:
            start = wanted.start - pieces[owner][source.number].start
            tensor.data = local(source)[start : start + view.numel()].view(view.shape)
            return
        if owner == self.rank:
            self.received = (tensor, torch.empty(view.numel(), dtype=view.dtype, device=device()))
        for rank, overlap in enumerate(overlaps):
            if overlap is None or self.rank not in (rank, owner):
                continue
            if self.rank == rank:
                first = pieces[rank][source.number].start
                held = local(source)[overlap.start - first : overlap.end - first]
            if self.rank == owner:
                assert self.received is not None
                place = self.received[1][overlap.start - wanted.start : overlap.end - wanted.start]
            if rank == owner:
                place.copy_(held)
            elif self.rank == rank:
                self._add_operation(dist.isend, held, owner)
            else:
                self._add_operation(dist.irecv, place, rank)

    def _add_operation(self, kind: Any, tensor: Tensor, peer: int) -> None:
        self.operations.append(dist.P2POp(kind, tensor, group=self.group, group_peer=peer))

    def run(self) -> list[Tensor]:
        """Send and receive the prepared pieces.

        Returns the tensor that this rank has received, on the CPU, as the only entry of a list; an empty list if there
        is none.
        """
        for request in dist.batch_isend_irecv(self.operations) if self.operations else []:
            request.wait()
        if self.received is None:
            return []
        tensor, flat = self.received
        tensor.data = flat.cpu().view(tensor.data.shape)
        return [tensor.data]


def _overlap(held: Piece | None, wanted: Piece) -> Piece | None:
    """Return the range that `held` and `wanted` share, or None when they share none."""
    if held is None or max(held.start, wanted.start) >= min(held.end, wanted.end):
        return None
    return Piece(max(held.start, wanted.start), min(held.end, wanted.end))


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


def _parameters(part: Any) -> Iterator[Any]:
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
