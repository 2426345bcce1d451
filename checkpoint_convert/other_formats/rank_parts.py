"""The files of tensor-parallel ranks, held against one another before anything is joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from checkpoint_convert.output.report import named, warn
from checkpoint_convert.tensors.tensor import ConvertError, same_bits

REMEDY = "they are not of one save; fetch both files again"
DRIFT = 1e-2
"""Norms of each rank may drift apart in training: those of Llama 3 70B do (AI-Hypercomputer/jetstream-pytorch#101)."""


def check_ranks(
    ranks: Sequence[Mapping[str, Tensor]], files: Sequence[Path], axis_of: Callable[[str], int | None]
) -> None:
    """Raises ConvertError when a rank's names, dtypes or shapes differ from rank 0's, or a tensor that each has whole.

    `axis_of` tells the axis on which a tensor is divided; None = each rank has all of it, a drift apart.
    """
    drifted: list[str] = []
    for rank, file in zip(ranks[1:], files[1:], strict=True):
        alone = sorted(ranks[0].keys() ^ rank.keys())
        if alone:
            raise ConvertError(f"{file}: only one of it and {files[0]} holds {named(alone)}: {REMEDY}")
        for name, tensor in rank.items():
            first, axis = ranks[0][name], axis_of(name)
            if not _fits(first, tensor, axis):
                raise ConvertError(f"{file}: its {name} does not go with that of {files[0]}: {REMEDY}")
            if axis is None and not same_bits(first, tensor):
                drifted.append(name)
    if drifted:
        names = list(dict.fromkeys(drifted))
        warn(f"{files[0]}: the other ranks' {named(names)} differ by up to {DRIFT:g}; rank 0's are taken")


def _fits(first: Tensor, other: Tensor, axis: int | None) -> bool:
    """Same dtype, same shape but for the divided axis; undivided, the same numbers too, a drift apart."""
    shapes = [[size for i, size in enumerate(tensor.shape) if i != axis] for tensor in (first, other)]
    if first.dtype != other.dtype or first.dim() != other.dim() or shapes[0] != shapes[1]:
        return False
    return axis is not None or torch.allclose(first.float(), other.float(), rtol=0, atol=DRIFT, equal_nan=True)
