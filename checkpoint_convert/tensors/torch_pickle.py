"""Read the pickles of torch.save without running them: containers and numbers as they are, tensors mapped from a file.

The pickle runs through the inert unpickler of safe_pickle.py. Only the names below may be imported. A trainer's own
classes, named in `kept`, become Inert objects that hold their attributes. Any other import is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.safe_pickle import Inert, UnsafePickleError, inert_load

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
"""(module, name) of an import in a pickle -> the harmless object that the pickle gets for it."""

Names = Collection[tuple[str, str]] | None
"""(module, name) pairs that a pickle may import besides _VALUES. None allows every name.

Their instances become Inert objects, which hold the attributes and run no code.
"""
Functions = Mapping[tuple[str, str], Any]
"""(module, name) of a function that a pickle imports -> our function that replaces it."""
Locate = Callable[[str], tuple[int, int]]
"""Returns (offset in the file, number of bytes) of a storage, a tensor's elements, for its key.

Raises KeyError or UnsafePickleError.
"""


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    num_elements: int


def _storage(identifier: Any) -> _Storage:
    """Return the storage (a tensor's elements, kept outside the pickle) that a persistent id describes.

    Raises ValueError or TypeError for any other id.
    """
    kind, dtype, key, _, num_elements, *view = identifier
    if kind != "storage" or not isinstance(dtype, torch.dtype) or any(part is not None for part in view):
        raise ValueError(f"{identifier!r} is not a tensor storage")
    return _Storage(str(key), dtype, int(num_elements))


def read_pickle(
    pickled: bytes | IO[bytes],
    name: str,
    kept: Names = (),
    functions: Functions | None = None,
    mapped_bytes: int = 0,
) -> Any:
    """Return the object of one pickle without running its code. `name` is the file's name in messages.

    Instances of the classes in `kept` (None: of every class) become Inert objects. `functions` replace functions that
    the pickle calls, and may map up to `mapped_bytes` of a file. Raises ConvertError for a damaged pickle, and for one
    that imports any other name.
    """
    known = {**dict.fromkeys(kept or (), Inert), **_VALUES, **(functions or {})}
    unknown = Inert if kept is None else None

    def stand_in(module: str, word: str) -> Any:
        return known.get((module, word), unknown)

    try:
        return inert_load(pickled, name, stand_in, _storage, mapped_bytes)
    except UnsafePickleError as error:
        raise ConvertError(str(error)) from None


def tensor_functions(mapped: MappedFile, name: str, locate: Locate) -> Functions:
    """Return replacements for torch's functions that rebuild tensors. They map each tensor from `mapped`.

    `locate` finds the bytes of a tensor in the file. `name` is the file's name in error messages.
    """

    def rebuild(storage: Any, start: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        try:
            first, available = locate(storage.key)
        except (AttributeError, KeyError):
            raise UnsafePickleError(f"{name}: a tensor's storage is not in the file; fetch the file again") from None
        size, stride = tuple(size), tuple(stride)
        last = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else start - 1
        num_bytes = storage.num_elements * storage.dtype.itemsize
        if num_bytes > available or not 0 <= last + 1 <= storage.num_elements:
            raise UnsafePickleError(f"{name}: a tensor does not fit its storage; fetch the file again")
        return mapped.tensor(first, num_bytes, storage.dtype).as_strided(size, stride, start)

    return named_functions(rebuild, lambda data, *_: data)


def named_functions(rebuild_tensor: Any, rebuild_parameter: Any) -> Functions:
    """Return {(module, name): replacement} for torch's functions that rebuild tensors and parameters."""
    return {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    }
