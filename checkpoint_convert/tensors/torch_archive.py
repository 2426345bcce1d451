"""Reads what torch.save wrote, running nothing: containers and numbers as they are, tensors mapped from the file.

    state = read_archive(MappedFile(Path("pytorch_model-00001-of-00002.bin")))
    state["model.norm.weight"]           # a tensor over the file's own bytes

A pickle in such a file may import only the names below; of them none is called but the few functions here. Names of
`opaque` (a trainer's own classes) become an Opaque that keeps its attributes. Any other import is refused with the
file's name.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.files.limits import limited_memory

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
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGES.values()}


class Opaque:
    """An instance of a class that is not loaded: only its attributes and arguments are kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = args

    def __setstate__(self, state: Any) -> None:
        self.state = state
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    num_elements: int


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, name: str, functions: Mapping[str, Any], opaque: Collection[tuple[str, str]]):
        super().__init__(io.BytesIO(pickled))
        self.name, self.functions, self.opaque = name, functions, opaque

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in self.functions:
            return self.functions[name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in self.opaque:
            return Opaque
        raise ConvertError(f"{self.name}: refused: it would import {module}.{name}, which weights have no need of")

    def persistent_load(self, identifier: Any) -> Any:
        try:
            kind, dtype, key, _, num_elements = identifier
            if kind != "storage" or not isinstance(dtype, torch.dtype):
                raise ValueError(identifier)
            return _Storage(str(key), dtype, int(num_elements))
        except (TypeError, ValueError):
            raise ConvertError(f"{self.name}: refers to {identifier!r}, which is no tensor storage") from None


class _Archive:
    """One torch.save zip, from `offset` of a mapped file on."""

    def __init__(self, mapped: MappedFile, offset: int, length: int) -> None:
        self.mapped, self.offset = mapped, offset
        self.name = str(mapped.path) if offset == 0 else f"{mapped.path} (at byte {offset})"
        try:
            with zipfile.ZipFile(_Window(mapped, offset, length)) as archive:
                self.entries = {"/".join(e.filename.split("/")[1:]): e for e in archive.infolist()}
                if self.entries["data.pkl"].compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile("its pickle is compressed, as torch writes none")
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
        if not isinstance(storage, _Storage) or f"data/{storage.key}" not in self.entries:
            raise ConvertError(f"{self.name}: a tensor's storage is not in the archive; fetch the file again")
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
            raise ConvertError(f"{self.name}: a tensor does not fit its storage; fetch the file again")
        return self.mapped.tensor(first, num_bytes, storage.dtype).as_strided(size, stride, start)


class _Window(io.RawIOBase):
    """Read-only view of a part of a file."""

    def __init__(self, mapped: MappedFile, offset: int, length: int) -> None:
        self.mapped, self.offset, self.length, self.position = mapped, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        self.position = max(0, base + offset)
        return self.position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.length - self.position)
        data = self.mapped.read(self.offset + self.position, left if size is None or size < 0 else min(size, left))
        self.position += len(data)
        return data


def read_archive(
    mapped: MappedFile, offset: int = 0, length: int | None = None, opaque: Collection[tuple[str, str]] = ()
) -> Any:
    """The object that torch.save wrote there. Raises ConvertError naming the file."""
    archive = _Archive(mapped, offset, mapped.size - offset if length is None else length)
    functions = {"_rebuild_tensor_v2": archive.rebuild, "_rebuild_parameter": _parameter_data}
    return read_pickle(archive.pickled, archive.name, opaque, functions, 2 * mapped.size)


def read_pickle(
    pickled: bytes,
    name: str,
    opaque: Collection[tuple[str, str]] = (),
    functions: Mapping[str, Any] | None = None,
    mapped_bytes: int = 0,
) -> Any:
    """The object of one pickle; `functions` stand for those of torch._utils and map up to `mapped_bytes` of a file.

    Raises ConvertError naming the file.
    """
    try:
        with limited_memory(mapped_bytes):
            return _Unpickler(pickled, name, functions or {}, opaque).load()
    except ConvertError:
        raise
    except (Exception, RecursionError) as error:  # a damaged pickle raises almost anything
        raise ConvertError(
            f"{name}: not a readable pickle ({type(error).__name__}: {error}); fetch the file again"
        ) from None


def _parameter_data(data: Tensor, *_: Any) -> Tensor:
    return data
