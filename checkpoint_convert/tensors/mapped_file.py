"""Map parts of a file as tensors: nothing is copied, and unused tensors take no memory.

    tensor = MappedFile(Path("model.safetensors")).tensor(offset=1024, num_bytes=64, dtype=torch.float32)

Each tensor has its own private copy-on-write mapping, which is released with the tensor. Its pages belong to the
file's cache and not to the process.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

from checkpoint_convert.tensors.tensor import ConvertError


class MappedFile:
    """A file open for reading. Its parts can be mapped as tensors."""

    def __init__(self, path: Path, is_read_ahead: bool = False) -> None:
        """Open `path`. With `is_read_ahead`, the disk starts reading a whole tensor as soon as it is mapped.

        Raises ConvertError when the file cannot be opened.
        """
        self.path, self.is_read_ahead = path, is_read_ahead
        try:
            self._file = path.open("rb", buffering=0)
            self.size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise ConvertError(f"{path}: cannot read: {error.strerror}") from None

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes of the file from `offset`, or fewer at its end."""
        return os.pread(self.descriptor, length, offset)

    def tensor(self, offset: int, num_bytes: int, dtype: torch.dtype) -> Tensor:
        """Return `num_bytes` of the file from `offset` as a flat tensor.

        The bytes are copied only when `offset` is not aligned for `dtype`. Raises ConvertError when they lie beyond the
        end of the file.
        """
        if offset < 0 or num_bytes < 0 or offset + num_bytes > self.size:
            raise ConvertError(f"{self.path}: truncated: bytes {offset} to {offset + num_bytes} are beyond its end")
        if num_bytes == 0:
            return torch.empty(0, dtype=dtype)
        before = offset % mmap.ALLOCATIONGRANULARITY
        length = before + num_bytes
        mapping = mmap.mmap(self.descriptor, length, access=mmap.ACCESS_COPY, offset=offset - before)
        if self.is_read_ahead and hasattr(mmap, "MADV_WILLNEED"):
            mapping.madvise(mmap.MADV_WILLNEED)  # otherwise each page fault waits for about 100 kB
        raw = torch.frombuffer(mapping, dtype=torch.uint8, count=num_bytes, offset=before)
        return (raw if offset % dtype.itemsize == 0 else raw.clone()).view(dtype)
