"""Read what torch.save wrote without running it: containers and numbers as they are, tensors mapped from the file.

    state = read_archive(MappedFile(Path("pytorch_model-00001-of-00002.bin")))
    state["model.norm.weight"]           # a tensor over the file's own bytes

The pickle runs through the inert unpickler of safe_pickle.py. Only the names below may be imported. A trainer's own
classes, named in `kept`, become Inert objects that hold their attributes. Any other import is refused.
"""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.safe_pickle import FileSlice, Inert, UnsafePickleError, inert_load

_STORAGES = {
    "FloatStorage": torch.float32,
    "BFloat16Storage": torch.bfloat16,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_VALUES: dict[tuple[str, str], Any] = {
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _STORAGES.values()},
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
}
"""The harmless objects that stand for imported names."""

Names = Collection[tuple[str, str]] | None
"""(module, name) pairs that a pickle may import besides _VALUES, as Inert objects. None allows every name."""


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    num_elements: int


def _storage(identifier: Any) -> _Storage:
    """Return the storage that a persistent id describes. Raises ValueError or TypeError for any other id."""
    kind, dtype, key, _, num_elements = identifier
    if kind != "storage" or not isinstance(dtype, torch.dtype):
        raise ValueError(f"{identifier!r} is not a tensor storage")
    return _Storage(str(key), dtype, int(num_elements))


class _Archive:
    """One torch.save zip archive that starts at `offset` of a mapped file."""

    def __init__(self, mapped: MappedFile, offset: int, length: int) -> None:
        self.mapped, self.offset = mapped, offset
        self.name = str(mapped.path) if offset == 0 else f"{mapped.path} (at byte {offset})"
        try:
            with zipfile.ZipFile(FileSlice(mapped.descriptor, offset, length)) as archive:
                self.entries = {"/".join(e.filename.split("/")[1:]): e for e in archive.infolist()}
                if self.entries["data.pkl"].compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile("its pickle is compressed, which torch never does")
                self.pickled = archive.read(self.entries["data.pkl"])
                order = archive.read(self.entries["byteorder"]) if "byteorder" in self.entries else b"little"
        except Exception as error:  # a damaged archive raises almost anything
            raise ConvertError(
                f"{self.name}: not a complete torch.save archive ({error}); fetch the file again"
            ) from None
        if order != b"little":
            raise ConvertError(
                f"{self.name}: its numbers are {order.decode(errors='replace')}-endian, which is not supported"
            )

    def rebuild(self, storage: Any, start: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """Stand in for torch._utils._rebuild_tensor_v2: map the tensor from the file."""
        if not isinstance(storage, _Storage) or f"data/{storage.key}" not in self.entries:
            raise UnsafePickleError(f"{self.name}: a tensor's storage is not in the archive; fetch the file again")
        entry = self.entries[f"data/{storage.key}"]
        header = self.offset + entry.header_offset
        names = self.mapped.read(header + 26, 4)
        first = header + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
        size, stride = tuple(size), tuple(stride)
        last = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else start - 1
        num_bytes = storage.num_elements * storage.dtype.itemsize
        if (
            entry.compress_type != zipfile.ZIP_STORED
            or num_bytes > entry.file_size
            or not 0 <= last + 1 <= storage.num_elements
        ):
            raise UnsafePickleError(f"{self.name}: a tensor does not fit its storage; fetch the file again")
        return self.mapped.tensor(first, num_bytes, storage.dtype).as_strided(size, stride, start)


def read_archive(mapped: MappedFile, offset: int = 0, length: int | None = None, kept: Names = ()) -> Any:
    """Return the object that torch.save wrote at `offset`. Raises ConvertError naming the file."""
    archive = _Archive(mapped, offset, mapped.size - offset if length is None else length)
    functions = {
        ("torch._utils", "_rebuild_tensor_v2"): archive.rebuild,
        ("torch._utils", "_rebuild_parameter"): _parameter_data,
    }
    return read_pickle(archive.pickled, archive.name, kept, functions, 2 * mapped.size)


def read_pickle(
    pickled: bytes,
    name: str,
    kept: Names = (),
    functions: Mapping[tuple[str, str], Any] | None = None,
    mapped_bytes: int = 0,
) -> Any:
    """Return the object of one pickle, in which names of `kept` are Inert objects.

    `functions` replace imported functions and may map up to `mapped_bytes` of a file. Raises ConvertError naming the
    file.
    """
    known = {**dict.fromkeys(kept or (), Inert), **_VALUES, **(functions or {})}
    unknown = Inert if kept is None else None
    try:
        return inert_load(
            pickled, name, lambda module, word: known.get((module, word), unknown), _storage, mapped_bytes
        )
    except UnsafePickleError as error:
        raise ConvertError(str(error)) from None


def _parameter_data(data: Tensor, *_: Any) -> Tensor:
    return data
