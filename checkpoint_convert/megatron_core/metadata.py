"""Read and write `.metadata` of a torch_dist checkpoint: its tensors, and in which file and where each chunk is.

    stored = read_metadata(Path("ckpt/release"))["decoder.layers.mlp.linear_fc1.weight"]
    stored.shape, stored.dtype, stored.chunks[0].file, stored.chunks[0].start

The file is a pickle of torch.distributed.checkpoint.metadata.Metadata. This module reads and writes it without those
classes: importing them takes as long as converting a gigabyte, and reading them would run their code.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.tensors.torch_archive import read_archive
from checkpoint_convert.tensors.torch_pickle import read_pickle
from megatron_train.checkpoint.safe_pickle import ALLOWED_GLOBALS


class Chunk(NamedTuple):
    """The part of a tensor with shape `sizes` at `offsets`, and where it is stored.

    It is a torch.save archive of `length` bytes that begins at byte `start` of `file`.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


class StoredTensor(NamedTuple):
    """Shape and dtype of a whole tensor, and the chunks that hold its parts."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: list[Chunk]


def read_metadata(folder: Path, is_foreign: bool = False) -> dict[str, StoredTensor]:
    """Return shape, dtype and chunks of every tensor of a checkpoint, by key. Raises ConvertError naming the file.

    With `is_foreign`, for checkpoints of other tools, the pickle may name any class. No class is imported in either
    case.
    """
    path = folder / ".metadata"
    metadata = _parse(path, is_foreign)
    try:
        storage = metadata.state["storage_data"].items()
        places = {(index.state["fqn"], index.state.get("offset")): place.state for index, place in storage}
        found = {}
        for key, value in metadata.state["state_dict_metadata"].items():
            if "chunks" in (value.state or {}):  # other entries are objects stored as bytes
                chunks = [_chunk(chunk.state, places[key, chunk.state["offsets"]]) for chunk in value.state["chunks"]]
                found[key] = StoredTensor(value.state["size"], value.state["properties"].state[0], chunks)
    except KeyError as error:
        raise ConvertError(f"{path}: lists no file for the chunk or field {error}; the checkpoint is damaged") from None
    except (AttributeError, TypeError, IndexError) as error:
        raise ConvertError(f"{path}: not the metadata of a checkpoint ({error}); the file is damaged") from None
    return found


def read_object(folder: Path, key: str) -> Any:
    """Return an object of another tool's checkpoint that is stored beside its tensors, or None if there is none.

    Instances of all classes are Inert, so no code runs. Raises ConvertError naming the file.
    """
    path = folder / ".metadata"
    try:
        for index, place in _parse(path, is_foreign=True).state["storage_data"].items():
            if index.state["fqn"] == key:
                mapped = MappedFile(folder / Path(place.state["relative_path"]).name)
                return read_archive(mapped, place.state["offset"], place.state["length"], kept=None)
    except (AttributeError, TypeError, KeyError) as error:
        raise ConvertError(f"{path}: not the metadata of a checkpoint ({error}); the file is damaged") from None
    return None


def _parse(path: Path, is_foreign: bool) -> Any:
    """Return the Metadata object in the file `path`, as an Inert. `is_foreign` is that of read_metadata."""
    return read_pickle(path.read_bytes(), str(path), None if is_foreign else ALLOWED_GLOBALS)


def _chunk(described: dict[str, Any], place: dict[str, Any]) -> Chunk:
    where = place["relative_path"], place["offset"], place["length"]
    return Chunk(described["offsets"], described["sizes"], *where)


def write_metadata(
    folder: Path, tensors: Mapping[str, StoredTensor], objects: Mapping[str, tuple[str, int, int]] | None = None
) -> None:
    """Write `.metadata` for tensors and for other pickled objects, as torch.distributed.checkpoint reads it.

    `objects` maps the key of an object to (file, first byte, number of bytes).
    """
    found: dict[str, Any] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    for key, stored in tensors.items():
        chunks = [
            ChunkStorageMetadata(offsets=torch.Size(chunk.offsets), sizes=torch.Size(chunk.sizes))
            for chunk in stored.chunks
        ]
        properties = TensorProperties(dtype=stored.dtype)
        found[key] = TensorStorageMetadata(properties=properties, size=torch.Size(stored.shape), chunks=chunks)
        for chunk in stored.chunks:
            index = MetadataIndex(fqn=key, index=None, offset=torch.Size(chunk.offsets))
            places[index] = _StorageInfo(relative_path=chunk.file, offset=chunk.start, length=chunk.length)
    for key, (file, start, length) in (objects or {}).items():
        found[key] = BytesStorageMetadata()
        places[MetadataIndex(fqn=key, index=None)] = _StorageInfo(relative_path=file, offset=start, length=length)
    metadata = Metadata(
        state_dict_metadata=found, planner_data=None, storage_data=places, storage_meta=None, version=None
    )
    buffer = io.BytesIO()
    _Pickler(buffer).dump(metadata)
    (folder / ".metadata").write_bytes(buffer.getvalue())


class _StandIn:
    """Stands for torch's class of the same name.

    An instance is pickled as an instance of that class with its fields.
    """

    stands_for = "torch.distributed.checkpoint.metadata"

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Metadata(_StandIn): ...


class MetadataIndex(_StandIn): ...


class TensorStorageMetadata(_StandIn): ...


class BytesStorageMetadata(_StandIn): ...


class ChunkStorageMetadata(_StandIn): ...


class TensorProperties(_StandIn):
    def __getstate__(self) -> tuple[Any, ...]:
        return (self.dtype, torch.strided, False, _MEM_FORMAT_ENCODING(), False)  # type: ignore[attr-defined]


class _MEM_FORMAT_ENCODING(_StandIn):  # noqa: N801
    def __reduce__(self) -> tuple[Any, ...]:
        return (_MEM_FORMAT_ENCODING, (0,))  # the enum's member for contiguous tensors


class _StorageInfo(_StandIn):
    stands_for = "torch.distributed.checkpoint.filesystem"


class _Pickler(pickle._Pickler):
    """Python's own pickler, which writes torch's class name in place of a subclass of _StandIn."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        pickler: Any = self
        if not (isinstance(obj, type) and issubclass(obj, _StandIn)):
            super().save_global(obj, name)  # type: ignore[misc]
            return
        pickler.save(obj.stands_for)
        pickler.save(obj.__name__)
        pickler.write(pickle.STACK_GLOBAL)
        pickler.memoize(obj)
