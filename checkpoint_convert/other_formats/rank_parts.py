"""Check that the files of tensor-parallel ranks fit together before they are joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from checkpoint_convert.output.report import named, warn
from checkpoint_convert.tensors.tensor import ConvertError, same_bits

REMEDY = "they come from different saves; fetch both files again"
DRIFT = 1e-2
"""Largest accepted difference between the ranks' copies of a tensor.

Norms can drift apart in training: Llama 3 70B's did (AI-Hypercomputer/jetstream-pytorch#101)."""


def check_ranks(
    ranks: Sequence[Mapping[str, Tensor]], files: Sequence[Path], axis_of: Callable[[str], int | None]
) -> None:
    """Check that the tensors of all tensor-parallel ranks fit rank 0's in name, dtype and shape. Raises ConvertError.

    `ranks` has the tensors of each rank by name, and `files` the file of each rank for messages. `axis_of` returns the
    axis on which a tensor is split, or None if each rank has the whole tensor. Copies of a whole tensor may differ by
    DRIFT, which is a warning.
    """
    drifted: list[str] = []
    for rank, file in zip(ranks[1:], files[1:], strict=True):
        alone = sorted(ranks[0].keys() ^ rank.keys())
        if alone:
            raise ConvertError(f"{file}: only this file or {files[0]} has {named(alone)}: {REMEDY}")
        for name, tensor in rank.items():
            first, axis = ranks[0][name], axis_of(name)
            if not _fits(first, tensor, axis):
                raise ConvertError(f"{file}: its {name} does not match that of {files[0]}: {REMEDY}")
            if axis is None and not same_bits(first, tensor):
                drifted.append(name)
    if drifted:
        names = list(dict.fromkeys(drifted))
        warn(f"{files[0]}: the other ranks' {named(names)} differ by up to {DRIFT:g}; rank 0's are used")


def _fits(first: Tensor, other: Tensor, axis: int | None) -> bool:
    """Return whether the tensors of two ranks have the same dtype and shape, except on the axis that splits them.

    Without such an axis, they must also be equal up to DRIFT.
    """
    shapes = [[size for i, size in enumerate(tensor.shape) if i != axis] for tensor in (first, other)]
    if first.dtype != other.dtype or first.dim() != other.dim() or shapes[0] != shapes[1]:
        return False
    return axis is not None or torch.allclose(first.float(), other.float(), rtol=0, atol=DRIFT, equal_nan=True)
