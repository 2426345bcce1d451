"""The interface of every reader and writer of weights: named tensors, one at a time.

A source knows names, shapes and dtypes before it reads any tensor. Its tensors are mapped from their file where the
format allows it. A sink takes each name once. Between the two, a tensor is a list of Parts, so that fused tensors need
no memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The values of --dtype, and the torch dtypes that they name."""


INFINITY = {
    torch.float64: 0x7FF0_0000_0000_0000,
    torch.float32: 0x7F80_0000,
    torch.bfloat16: 0x7F80,
    torch.float16: 0x7C00,
}
"""The bit pattern of positive infinity in each dtype. The bit patterns of NaN are larger."""

BLOCK_BYTES = 1 << 20
"""Bytes that are read, checked and written at once, so that they stay in the processor's cache."""

Parts = Sequence[Tensor]
"""A tensor as a sequence of views to be concatenated along axis 0."""


class ConvertError(ValueError):
    """The input cannot be converted. The message names the file and the remedy."""


class TensorInfo(NamedTuple):
    """Shape and dtype of a tensor, which are known before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorSource(Protocol):
    """A reader that returns tensors by name."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor by name."""

    def read(self, name: str) -> Tensor:
        """Return the tensor `name`, which callers must not modify. Raises ConvertError naming an unreadable file."""


class TensorSink(Protocol):
    """A writer of named tensors. Each name may be written once."""

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        """Write the tensor `name`. `blocks` together contain its elements in C order."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute on the calling thread only, until the `with` block ends.

    Conversions are limited by memory bandwidth, and more threads slow them down.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name that a dtype has in Hugging Face's config.json, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def main_dtype(infos: Iterable[TensorInfo]) -> torch.dtype:
    """Return the dtype that accounts for the most bytes of the tensors."""
    totals: dict[torch.dtype, int] = {}
    for info in infos:
        totals[info.dtype] = totals.get(info.dtype, 0) + info.num_bytes
    return max(totals, key=lambda dtype: totals[dtype])


def shape_of(parts: Parts) -> tuple[int, ...]:
    """Return the shape of the tensor that `parts` form when they are concatenated along axis 0."""
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def joined(parts: Parts) -> Tensor:
    """Return the tensor that `parts` form when they are concatenated along axis 0. A single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def blocks_of(parts: Parts) -> Iterator[Tensor]:
    """Yield the elements of a tensor in C order, in blocks of at most BLOCK_BYTES where the memory layout allows it."""
    for part in parts:
        if part.nbytes <= BLOCK_BYTES:
            yield part
        elif part.is_contiguous():
            yield from part.view(-1).split(BLOCK_BYTES // part.dtype.itemsize)
        elif part.shape[0] == 1:
            yield from blocks_of([part[0]])
        else:
            yield from blocks_of(part.split(max(1, BLOCK_BYTES * part.shape[0] // part.nbytes)))


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's bytes in C order. A contiguous tensor is not copied."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are equal in shape, dtype and every bit, NaN included."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.dtype.itemsize]
    return torch.equal(first.contiguous().view(integers), second.contiguous().view(integers))


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor has no NaN and no infinity. Tensors of integers never have one.

    Only the largest bit patterns are compared, because infinity and NaN have the largest ones apart from the sign.
    """
    if tensor.dtype not in INFINITY or tensor.numel() == 0:
        return True
    bits, infinity = 8 * tensor.dtype.itemsize, INFINITY[tensor.dtype]
    numbers = np.frombuffer(raw_bytes(tensor), f"i{tensor.dtype.itemsize}")
    negative = numbers.view(f"u{tensor.dtype.itemsize}")  # as unsigned numbers, negative numbers are the largest
    return bool(numbers.max() < infinity and negative.max() < infinity + (1 << (bits - 1)))


def overflows(tensor: Tensor, rounded: Tensor) -> bool:
    """Return whether a finite number of `tensor` becomes infinite in `rounded`, its copy in another dtype."""
    if rounded.dtype == tensor.dtype or is_finite(rounded):
        return False
    return bool((tensor.isfinite() & ~rounded.isfinite()).any())


def human_bytes(count: int) -> str:
    """Return a number of bytes as text in powers of ten, such as `60.8 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"
