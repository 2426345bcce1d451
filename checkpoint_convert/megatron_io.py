"""One tensor at a time out of and into a megatron-core `torch_dist` checkpoint; no process group, no megatron-core.

    reader = CheckpointReader(Path("ckpt/release"))
    reader.read("decoder.layers.3.mlp.linear_fc1.weight")     # one layer of the stacked [layers, rows, columns]

The format, as torch.distributed.checkpoint writes it and megatron-core 0.16.1 names it: `.metadata` is a pickle that
maps each key to its shape, dtype and chunks, and each chunk to (file, offset, length); a chunk is a torch.save
archive. Layers are stacked on axis 0 under `decoder.layers.`. Here every layer is a tensor of its own,
`decoder.layers.<i>.`; training state is left aside.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from checkpoint_convert.checksums import Checksums
from checkpoint_convert.mapped_file import MappedFile
from checkpoint_convert.new_file import NewFile
from checkpoint_convert.tensors import ConvertError, TensorInfo, raw_bytes
from checkpoint_convert.torch_archive import read_archive
from megatron_train.state.safe_pickle import UnsafePickleError, scan_pickles

STACKED = "decoder.layers."
WEIGHTS = ("embedding.", "decoder.", "output_layer.")
"""Beginnings of the keys that are weights; optimizer and random state have others."""
FILE_BYTES = 1 << 30
"""A new file is begun after this many bytes."""
ALIGNMENT = 64
"""Of each blob in its file, so that tensors can be mapped where they are."""
BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def _stacked_key(name: str) -> tuple[str, int] | None:
    """("decoder.layers.mlp.linear_fc1.weight", 3) for layer 3's name; None for a tensor outside the layers."""
    match = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
    return (STACKED + match.group(2), int(match.group(1))) if match else None


class CheckpointReader:
    """The weights of a checkpoint folder, whatever layout saved it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = _load_metadata(folder)
        self.infos: dict[str, TensorInfo] = {}
        self._keys: dict[str, TensorStorageMetadata] = {}
        self._files: dict[str, MappedFile] = {}
        for key, value in self.metadata.state_dict_metadata.items():
            if key.startswith(WEIGHTS) and isinstance(value, TensorStorageMetadata):
                self._keys[key] = value
                self.infos.update(_names_of(key, value))
        self._storage = {
            (index.fqn, tuple(index.offset or ())): place for index, place in (self.metadata.storage_data or {}).items()
        }
        if not self.infos:
            raise ConvertError(f"{folder}: no weights in it (no key starts with {', '.join(WEIGHTS)})")

    def read(self, name: str) -> Tensor:
        """One tensor, mapped from its file when one chunk holds it all."""
        info = self.infos[name]
        key, layer = _stacked_key(name) or (name, None)
        pieces = list(self._pieces(key, layer, info))
        if sum(piece.numel() for _, piece in pieces) != torch.Size(info.shape).numel():
            raise ConvertError(f"{self.folder}: the chunks of {name} do not cover it; the checkpoint is damaged")
        if len(pieces) == 1:
            return pieces[0][1].reshape(info.shape)
        whole = torch.empty(info.shape, dtype=info.dtype)
        for offsets, piece in pieces:
            whole[tuple(slice(start, start + n) for start, n in zip(offsets, piece.shape, strict=True))] = piece
        return whole

    def _pieces(self, key: str, layer: int | None, info: TensorInfo) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """(offsets, data) of the chunks that hold a part of the tensor, the layer axis taken off."""
        for chunk in self._keys[key].chunks:
            offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
            if layer is not None and not offsets[0] <= layer < offsets[0] + sizes[0]:
                continue
            data = self._chunk(key, offsets)
            if tuple(data.shape) != sizes or data.dtype != info.dtype:
                raise ConvertError(
                    f"{self.folder}: a chunk of {key} is {tuple(data.shape)} {data.dtype}, not as its metadata says"
                )
            yield (offsets, data) if layer is None else (offsets[1:], data[layer - offsets[0]])

    def _chunk(self, key: str, offsets: tuple[int, ...]) -> Tensor:
        place = self._storage.get((key, offsets))
        if place is None:
            raise ConvertError(f"{self.folder}: a chunk of {key} has no place in any file; the checkpoint is damaged")
        path = self.folder / Path(place.relative_path).name
        if place.relative_path not in self._files:
            self._files[place.relative_path] = MappedFile(path)
        data = read_archive(self._files[place.relative_path], place.offset, place.length)
        if not isinstance(data, Tensor):
            raise ConvertError(f"{path}: a chunk of {key} holds a {type(data).__name__}, not a tensor")
        return data


def _names_of(key: str, value: TensorStorageMetadata) -> Iterator[tuple[str, TensorInfo]]:
    shape, dtype = tuple(value.size), value.properties.dtype
    if not key.startswith(STACKED):
        yield key, TensorInfo(shape, dtype)
        return
    for layer in range(shape[0]):
        yield f"{STACKED}{layer}.{key.removeprefix(STACKED)}", TensorInfo(shape[1:], dtype)


def _load_metadata(folder: Path) -> Metadata:
    """`.metadata`, after every pickle of the folder has been checked."""
    if not (folder / ".metadata").is_file():
        raise ConvertError(f"{folder}: no .metadata in it, so this is not a torch_dist checkpoint")
    try:
        scan_pickles(folder)
    except UnsafePickleError as error:
        raise ConvertError(str(error)) from None
    metadata = FileSystemReader(folder).read_metadata()
    if not isinstance(metadata, Metadata):
        raise ConvertError(f"{folder / '.metadata'}: not the metadata of a checkpoint; the file is damaged")
    return metadata


class CheckpointWriter:
    """Writes tensors into a folder as a checkpoint that megatron-core loads in any layout; complete after `close`."""

    def __init__(self, folder: Path, checksums: Checksums | None = None) -> None:
        """`checksums` gets each file of tensors as soon as it is complete."""
        self.folder, self.checksums = folder, checksums
        self._num_files = 0
        self._file = self._next_file()
        self._chunks: dict[str, dict[int | None, TensorInfo]] = {}
        self._places: dict[MetadataIndex, _StorageInfo] = {}

    def write(self, name: str, tensor: Tensor) -> None:
        """Appends one tensor; a layer's becomes a chunk of the stacked key."""
        key, layer = _stacked_key(name) or (name, None)
        stored = tensor if layer is None else tensor.unsqueeze(0)
        if self._file.tell() >= FILE_BYTES:
            self._finish_file()
            self._file = self._next_file()
        self._file.align(ALIGNMENT)
        start = self._file.tell()
        _save_tensor(stored, self._file)
        offset = torch.Size([layer or 0, *[0] * (stored.dim() - 1)])
        self._places[MetadataIndex(key, offset)] = _StorageInfo(self._file.path.name, start, self._file.tell() - start)
        self._chunks.setdefault(key, {})[layer] = TensorInfo(tuple(tensor.shape), tensor.dtype)

    def close(self, common: dict[str, object]) -> None:
        """Writes `.metadata`, `metadata.json` and `common.pt` (plain containers, e.g. {"iteration": 0})."""
        self._finish_file()
        tensors = {key: _stack(key, layers) for key, layers in self._chunks.items()}
        metadata = Metadata(state_dict_metadata=dict(tensors), planner_data=None, storage_data=self._places)
        (self.folder / ".metadata").write_bytes(pickle.dumps(metadata))
        (self.folder / "metadata.json").write_text(json.dumps(BACKEND))
        torch.save(common, self.folder / "common.pt")

    def _next_file(self) -> NewFile:
        self._num_files += 1
        return NewFile(self.folder / f"__0_{self._num_files - 1}.distcp")

    def _finish_file(self) -> None:
        self._file.close()
        if self.checksums is not None:
            self.checksums.add(self._file.path)

    def abandon(self) -> None:
        """Closes the file; the folder is incomplete and to be removed."""
        self._file.close()


def _stack(key: str, layers: dict[int | None, TensorInfo]) -> TensorStorageMetadata:
    infos = set(layers.values())
    if len(infos) != 1 or (None not in layers and sorted(layers) != list(range(len(layers)))):  # type: ignore[type-var]
        raise ConvertError(f"{key}: its layers differ in shape or dtype, or some are missing: {layers}")
    shape, dtype = infos.pop()
    if None in layers:
        chunks = [ChunkStorageMetadata(torch.Size([0] * len(shape)), torch.Size(shape))]
        return TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(shape), chunks)
    zeros = [0] * len(shape)
    chunks = [
        ChunkStorageMetadata(torch.Size([layer, *zeros]), torch.Size([1, *shape])) for layer in range(len(layers))
    ]
    return TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size([len(layers), *shape]), chunks)


class _Body:
    """The file that torch.save writes to: where it leaves room for a tensor's bytes, they are put."""

    def __init__(self, file: NewFile, data: memoryview) -> None:
        self.file, self.data, self.start = file, data, file.tell()

    def write(self, data: memoryview) -> int:
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell() - self.start

    def seek(self, distance: int, whence: int) -> None:
        assert (distance, whence) == (len(self.data), io.SEEK_CUR), "torch.save leaves room for something else"
        self.file.write(self.data)

    def flush(self) -> None:
        pass


def _save_tensor(tensor: Tensor, file: NewFile) -> None:
    """What torch.save(tensor) writes, without the copy and the checksum of the bytes (SHA256SUMS has one)."""
    empty = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    with torch.serialization.skip_data():
        torch.save(empty, _Body(file, raw_bytes(tensor)))  # type: ignore[arg-type]
