"""What every reader and writer of weights offers: named tensors, one at a time.

A source knows names, shapes and dtypes before any byte is read, and gives tensors that are mapped from their file
where the format allows it; a sink takes each name once. `convert.py` streams from one to the other, and on the way a
tensor is its Parts, so that fused tensors need no memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The spellings of --dtype."""


INFINITY = {
    torch.float64: 0x7FF0_0000_0000_0000,
    torch.float32: 0x7F80_0000,
    torch.bfloat16: 0x7F80,
    torch.float16: 0x7C00,
}
"""The bits of infinity; those of NaN are larger."""

BLOCK_BYTES = 1 << 20
"""What is read, checked and written at once: stays in a processor's cache from one step to the next."""

Parts = Sequence[Tensor]
"""A tensor as what lies below one another along axis 0: views of what they were made from."""


class ConvertError(ValueError):
    """Something that cannot be converted; the message names the file and what to do."""


class TensorInfo(NamedTuple):
    """Shape and element type of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorSource(Protocol):
    """Readable named tensors."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype of everything there is."""

    def read(self, name: str) -> Tensor:
        """The tensor, not to be written to. Raises ConvertError naming the file when it cannot be read."""


class TensorSink(Protocol):
    """Where named tensors go, each once."""

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        """Takes one tensor, whose elements come in C order, some in each block."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Inside, torch computes on the calling thread: the work waits for memory, and more threads for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16`, as Hugging Face's config.json spells it."""
    return str(dtype).removeprefix("torch.")


def main_dtype(infos: Iterable[TensorInfo]) -> torch.dtype:
    """The dtype that most bytes are in."""
    totals: dict[torch.dtype, int] = {}
    for info in infos:
        totals[info.dtype] = totals.get(info.dtype, 0) + info.num_bytes
    return max(totals, key=lambda dtype: totals[dtype])


def shape_of(parts: Parts) -> tuple[int, ...]:
    """The shape of the whole."""
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def joined(parts: Parts) -> Tensor:
    """The whole; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def blocks_of(parts: Parts) -> Iterator[Tensor]:
    """All elements in C order, at most BLOCK_BYTES of them at a time."""
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
    """The tensor's bytes in C order, without a copy when it is contiguous."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Equal in shape, dtype and every bit (NaN included)."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.dtype.itemsize]
    return torch.equal(first.contiguous().view(integers), second.contiguous().view(integers))


def is_finite(tensor: Tensor) -> bool:
    """No NaN and no infinity: their bits, without the sign, are the largest there are."""
    if tensor.dtype not in INFINITY or tensor.numel() == 0:
        return True
    bits, infinity = 8 * tensor.dtype.itemsize, INFINITY[tensor.dtype]
    numbers = np.frombuffer(raw_bytes(tensor), f"i{tensor.dtype.itemsize}")
    negative = numbers.view(f"u{tensor.dtype.itemsize}")  # as unsigned numbers, these are the largest
    return bool(numbers.max() < infinity and negative.max() < infinity + (1 << (bits - 1)))


def overflows(tensor: Tensor, rounded: Tensor) -> bool:
    """A number of `tensor` is infinity in `rounded`, its copy in another dtype."""
    if rounded.dtype == tensor.dtype or is_finite(rounded):
        return False
    return bool((tensor.isfinite() & ~rounded.isfinite()).any())


def human_bytes(count: int) -> str:
    """`60.8 MB`; powers of ten."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"
