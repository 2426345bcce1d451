"""Read and write a megatron-core `torch_dist` checkpoint, one tensor at a time, without megatron-core.

    reader = CheckpointReader(Path("ckpt/release"))
    reader.read("decoder.layers.3.mlp.linear_fc1.weight")     # one layer of the stacked [layers, rows, columns]

torch.distributed.checkpoint defines the format, megatron-core 0.16.1 the names. `.metadata` maps each key to its shape,
dtype and chunks (metadata.py), and each chunk to (file, offset, length). A chunk is a torch.save archive. On disk, the
layers are stacked on axis 0 under `decoder.layers.`. Here, every layer is a tensor of its own, `decoder.layers.<i>.`.
Training state is ignored.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from checkpoint_convert.megatron_core.metadata import Chunk, StoredTensor, read_metadata, write_metadata
from checkpoint_convert.tensors.hashed_file import NewFile
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, raw_bytes
from checkpoint_convert.tensors.torch_archive import read_archive
from megatron_train.checkpoint.safe_pickle import UnsafePickleError, scan_pickles

STACKED = "decoder.layers."
WEIGHTS = ("embedding.", "decoder.", "output_layer.")
"""Prefixes of the keys that are weights. Optimizer and random state have other prefixes."""
FILE_BYTES = 1 << 30
"""The writer starts a new file after this many bytes."""
ALIGNMENT = 64
"""Bytes. Each blob starts at a multiple of it, so that tensors can be mapped in place."""
BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def _stacked_key(name: str) -> tuple[str, int] | None:
    """Split a layer's name into its key and number, e.g. ("decoder.layers.mlp.linear_fc1.weight", 3), else None."""
    match = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
    return (STACKED + match.group(2), int(match.group(1))) if match else None


class CheckpointReader:
    """The weights of a checkpoint folder that any parallel layout saved.

    Opening it checks every pickle in the folder. Raises ConvertError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / ".metadata").is_file():
            raise ConvertError(f"{folder}: has no .metadata, so it is not a torch_dist checkpoint")
        try:
            scan_pickles(folder)
        except UnsafePickleError as error:
            raise ConvertError(str(error)) from None
        self.infos: dict[str, TensorInfo] = {}
        self._stored = {key: value for key, value in read_metadata(folder).items() if key.startswith(WEIGHTS)}
        self._files: dict[str, MappedFile] = {}
        for key, stored in self._stored.items():
            self.infos.update(_names_of(key, stored))
        if not self.infos:
            raise ConvertError(f"{folder}: has no weights (no key starts with {', '.join(WEIGHTS)})")

    def read(self, name: str) -> Tensor:
        """Return one tensor. It is mapped from its file when a single chunk holds it."""
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
        """Yield (offsets, data) of the chunks that hold a part of the tensor, without the layer axis."""
        for chunk in self._stored[key].chunks:
            if layer is not None and not chunk.offsets[0] <= layer < chunk.offsets[0] + chunk.sizes[0]:
                continue
            data = self._read_chunk(key, chunk)
            if tuple(data.shape) != chunk.sizes or data.dtype != info.dtype:
                raise ConvertError(
                    f"{self.folder}: a chunk of {key} is {tuple(data.shape)} {data.dtype}, which .metadata contradicts"
                )
            yield (chunk.offsets, data) if layer is None else (chunk.offsets[1:], data[layer - chunk.offsets[0]])

    def _read_chunk(self, key: str, chunk: Chunk) -> Tensor:
        path = self.folder / Path(chunk.file).name
        if chunk.file not in self._files:
            self._files[chunk.file] = MappedFile(path, is_read_ahead=True)
        data = read_archive(self._files[chunk.file], chunk.start, chunk.length)
        if not isinstance(data, Tensor):
            raise ConvertError(f"{path}: a chunk of {key} holds a {type(data).__name__}, not a tensor")
        return data


def _names_of(key: str, stored: StoredTensor) -> Iterator[tuple[str, TensorInfo]]:
    if not key.startswith(STACKED):
        yield key, TensorInfo(stored.shape, stored.dtype)
        return
    for layer in range(stored.shape[0]):
        yield f"{STACKED}{layer}.{key.removeprefix(STACKED)}", TensorInfo(stored.shape[1:], stored.dtype)


class CheckpointWriter:
    """Write tensors into a folder as a checkpoint that megatron-core loads in any layout. `close` completes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[Path, str] = {}
        """SHA-256 of each complete file of tensors."""
        self._stored: dict[str, StoredTensor] = {}
        self._file = NewFile(folder / "__0_0.distcp")

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        """Append one tensor. A layer's tensor becomes a chunk of the stacked key."""
        key, layer = _stacked_key(name) or (name, None)
        sizes = info.shape if layer is None else (1, *info.shape)
        if self._file.tell() >= FILE_BYTES:
            self._finish_file()
            self._file = NewFile(self.folder / f"__0_{len(self.digests)}.distcp")
        self._file.align(ALIGNMENT)
        start = self._file.tell()
        _save_tensor(TensorInfo(sizes, info.dtype), blocks, self._file)
        stored = self._stored.setdefault(key, StoredTensor(info.shape, info.dtype, []))
        if (stored.shape, stored.dtype) != info:
            raise ConvertError(
                f"{name} is {info.shape} {info.dtype}, but other layers are {stored.shape} {stored.dtype}"
            )
        offsets = (layer or 0, *[0] * (len(sizes) - 1))
        stored.chunks.append(Chunk(offsets, sizes, self._file.path.name, start, self._file.tell() - start))

    def close(self, common: dict[str, object]) -> None:
        """Write `.metadata`, `metadata.json` and `common.pt` (plain containers, e.g. {"iteration": 0})."""
        self._finish_file()
        write_metadata(self.folder, {key: _stack(key, stored) for key, stored in self._stored.items()})
        (self.folder / "metadata.json").write_text(json.dumps(BACKEND))
        torch.save(common, self.folder / "common.pt")

    def _finish_file(self) -> None:
        self.digests[self._file.path] = self._file.close()

    def abandon(self) -> None:
        """Close the current file. The folder stays incomplete and must be removed."""
        self._file.abandon()


def _stack(key: str, stored: StoredTensor) -> StoredTensor:
    """Add the axis of layers. Raises ConvertError when a layer is missing."""
    if not key.startswith(STACKED):
        return stored
    layers = sorted(chunk.offsets[0] for chunk in stored.chunks)
    if layers != list(range(len(layers))):
        raise ConvertError(f"{key}: has only the layers {layers}")
    return stored._replace(shape=(len(layers), *stored.shape))


class _Body:
    """The file object for torch.save. Where torch skips a tensor's bytes, this writes `blocks`."""

    def __init__(self, file: NewFile, blocks: Iterable[Tensor], num_bytes: int) -> None:
        self.file, self.blocks, self.num_bytes, self.start = file, blocks, num_bytes, file.tell()

    def write(self, data: memoryview) -> int:
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell() - self.start

    def seek(self, distance: int, whence: int) -> None:
        assert (distance, whence) == (self.num_bytes, io.SEEK_CUR), "torch.save skips something other than the tensor"
        for block in self.blocks:
            self.file.write(raw_bytes(block))

    def flush(self) -> None:
        pass


def _save_tensor(info: TensorInfo, blocks: Iterable[Tensor], file: NewFile) -> None:
    """Write the bytes of torch.save(tensor) without its copy and its checksum (SHA256SUMS has one)."""
    empty = torch.empty(info.shape, dtype=info.dtype)  # never written to, so it takes no memory
    try:
        with torch.serialization.skip_data():
            torch.save(empty, _Body(file, blocks, info.num_bytes))  # type: ignore[arg-type]
    except RuntimeError as error:  # torch complains about its unfinished file and hides the cause
        raise error.__context__ if isinstance(error.__context__, (OSError, ConvertError)) else error from None
