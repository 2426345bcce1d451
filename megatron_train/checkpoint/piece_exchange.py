"""Bring the optimizer's tensors to the ranks that write them to a checkpoint, one tensor per rank at a time.

    exchange = PieceExchange(optimizer, sources_of(state), wanted, group)        # `wanted`: this rank's own tensors
    for number in range(exchange.rounds):
        tensor = exchange.receive(number)                                        # all ranks of `group` take part

A rank can write each tensor and forget it before the next one comes, so it never holds its whole share of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_train.checkpoint.optimizer_state import Piece, parameters_of, pieces_of, storage_of
from megatron_train.parallel.distributed import device


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
        storage_of(sharded.data): Source(key, number)
        for number, tensors in state["param_state"].items()
        for key, sharded in tensors.items()
    }


class Wanted(NamedTuple):
    """A tensor that a rank writes: the range `piece` of the flattened `source`."""

    source: Source
    piece: Piece


class Transfer(NamedTuple):
    """A range of one optimizer tensor that the rank `sender` holds and the rank `owner` writes."""

    sender: int
    owner: int
    source: Source
    piece: Piece
    offset: int
    """Place of the range in the flattened tensor that the owner writes."""


class PieceExchange:
    """The rounds in which the ranks of a process group send one another their pieces of the optimizer's tensors."""

    rounds: int
    """The number of rounds, after which every rank of the group has received all of its tensors."""

    def __init__(self, optimizer: Any, sources: dict[int, Source], wanted: list[Tensor], group: Any) -> None:
        """Tell the other ranks of `group` which tensors this rank writes, and which pieces it holds.

        `wanted` holds meta tensors in the order in which this rank writes them, and `sources` the Source of each by
        storage_of. All ranks of `group` call this function.
        """
        (self._part,) = optimizer.chained_optimizers
        self._parameters, self._held = list(parameters_of(self._part)), pieces_of(self._part)
        self._group, self._rank = group, dist.get_rank(group)
        self._shapes = [tensor.shape for tensor in wanted]
        pieces = {number: self._held[each] for number, each in enumerate(self._parameters) if each in self._held}
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, (pieces, [_wanted(tensor, sources) for tensor in wanted]), group=group)
        self._pieces: list[dict[int, Piece]] = [rank[0] for rank in everyone]
        self._wanted: list[list[Wanted]] = [rank[1] for rank in everyone]
        self.rounds = max(map(len, self._wanted))

    def receive(self, number: int) -> Tensor | None:
        """Take part in a round, and return the data of this rank's tensor of that `number`, on the CPU.

        The result shares no memory with the optimizer. It is None when this rank writes fewer tensors. All ranks of the
        group call this method with the same numbers in the same order.
        """
        result: Tensor | None = None
        if number < len(self._shapes):
            result = torch.empty(self._shapes[number], dtype=torch.float32, device=device())
        operations = []
        for sender, owner, source, piece, offset in self._transfers(number):
            if owner == self._rank:
                assert result is not None
                place = result.view(-1)[offset : offset + piece.end - piece.start]
                if sender == owner:
                    place.copy_(self._local(source, piece))
                else:
                    operations.append(dist.P2POp(dist.irecv, place, group=self._group, group_peer=sender))
            elif sender == self._rank:
                held = self._local(source, piece)
                operations.append(dist.P2POp(dist.isend, held, group=self._group, group_peer=owner))
        for request in dist.batch_isend_irecv(operations) if operations else []:
            request.wait()
        return None if result is None else result.cpu()

    def _transfers(self, number: int) -> Iterator[Transfer]:
        """Yield the transfers of a round in an order that is the same on all ranks."""
        for owner, wanted in enumerate(self._wanted):
            if number < len(wanted):
                source, whole = wanted[number]
                for sender, pieces in enumerate(self._pieces):
                    piece = _overlap(pieces.get(source.number), whole)
                    if piece is not None:
                        yield Transfer(sender, owner, source, piece, piece.start - whole.start)

    def _local(self, source: Source, piece: Piece) -> Tensor:
        """Return a range of an optimizer tensor that this rank holds, as a view of the flat piece that it holds."""
        parameter = self._parameters[source.number]
        flat: Tensor = self._part._get_main_param_and_optimizer_states(parameter)[source.state_key].detach()
        first = self._held[parameter].start
        return flat[piece.start - first : piece.end - first]


def _wanted(tensor: Tensor, sources: dict[int, Source]) -> Wanted:
    """Return what a meta tensor stands for: a parameter, or a part of one that megatron-core splits off."""
    assert tensor.is_contiguous()
    start = int(tensor.storage_offset())
    return Wanted(sources[storage_of(tensor)], Piece(start, start + tensor.numel()))


def _overlap(held: Piece | None, wanted: Piece) -> Piece | None:
    """Return the range that `held` and `wanted` share, or None when they share none."""
    if held is None or max(held.start, wanted.start) >= min(held.end, wanted.end):
        return None
    return Piece(max(held.start, wanted.start), min(held.end, wanted.end))
