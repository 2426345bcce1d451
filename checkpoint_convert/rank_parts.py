"""The files of tensor-parallel ranks, held against one another before anything is joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from checkpoint_convert.report import named
from checkpoint_convert.tensors import ConvertError, same_bits

REMEDY = "they are not of one save; fetch both files again"


def check_ranks(
    ranks: Sequence[Mapping[str, Tensor]], files: Sequence[Path], axis_of: Callable[[str], int | None]
) -> None:
    """Raises ConvertError when a rank's names, dtypes or shapes differ from rank 0's, or a tensor that each has whole.

    `axis_of` tells the axis on which a tensor is divided; None = each rank has all of it.
    """
    for rank, file in zip(ranks[1:], files[1:], strict=True):
        alone = sorted(ranks[0].keys() ^ rank.keys())
        if alone:
            raise ConvertError(f"{file}: only one of it and {files[0]} holds {named(alone)}: {REMEDY}")
        for name, tensor in rank.items():
            if not _fits(ranks[0][name], tensor, axis_of(name)):
                raise ConvertError(f"{file}: its {name} does not go with that of {files[0]}: {REMEDY}")


def _fits(first: Tensor, other: Tensor, axis: int | None) -> bool:
    if axis is None:
        return same_bits(first, other)
    shapes = [[size for i, size in enumerate(tensor.shape) if i != axis] for tensor in (first, other)]
    return first.dtype == other.dtype and first.dim() == other.dim() > axis and shapes[0] == shapes[1]
