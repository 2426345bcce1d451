"""One tensor at a time out of and into a megatron-core `torch_dist` checkpoint; no process group, no megatron-core.

    reader = CheckpointReader(Path("ckpt/release"))
    reader.read("decoder.layers.3.mlp.linear_fc1.weight")     # one layer of the stacked [layers, rows, columns]

The format, as torch.distributed.checkpoint writes it and megatron-core 0.16.1 names it: `.metadata` maps each key to
its shape, dtype and chunks (megatron_metadata.py), and each chunk to (file, offset, length); a chunk is a torch.save
archive. Layers are stacked on axis 0 under `decoder.layers.`. Here every layer is a tensor of its own,
`decoder.layers.<i>.`; training state is left aside.
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
    """The weights of a checkpoint folder, whatever layout saved it. Every pickle in it is checked first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / ".metadata").is_file():
            raise ConvertError(f"{folder}: no .metadata in it, so this is not a torch_dist checkpoint")
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
        for chunk in self._stored[key].chunks:
            if layer is not None and not chunk.offsets[0] <= layer < chunk.offsets[0] + chunk.sizes[0]:
                continue
            data = self._read_chunk(key, chunk)
            if tuple(data.shape) != chunk.sizes or data.dtype != info.dtype:
                raise ConvertError(
                    f"{self.folder}: a chunk of {key} is {tuple(data.shape)} {data.dtype}, not as its metadata says"
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
    """Writes tensors into a folder as a checkpoint that megatron-core loads in any layout; complete after `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[Path, str] = {}
        """SHA-256 of each file of tensors that is complete."""
        self._stored: dict[str, StoredTensor] = {}
        self._file = NewFile(folder / "__0_0.distcp")

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        """Appends one tensor; a layer's becomes a chunk of the stacked key."""
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
            raise ConvertError(f"{name} is {info}, other layers are {stored.shape} {stored.dtype}")
        offsets = (layer or 0, *[0] * (len(sizes) - 1))
        stored.chunks.append(Chunk(offsets, sizes, self._file.path.name, start, self._file.tell() - start))

    def close(self, common: dict[str, object]) -> None:
        """Writes `.metadata`, `metadata.json` and `common.pt` (plain containers, e.g. {"iteration": 0})."""
        self._finish_file()
        write_metadata(self.folder, {key: _stack(key, stored) for key, stored in self._stored.items()})
        (self.folder / "metadata.json").write_text(json.dumps(BACKEND))
        torch.save(common, self.folder / "common.pt")

    def _finish_file(self) -> None:
        self.digests[self._file.path] = self._file.close()

    def abandon(self) -> None:
        """Closes the file; the folder is incomplete and to be removed."""
        self._file.abandon()


def _stack(key: str, stored: StoredTensor) -> StoredTensor:
    """With the axis of layers, whose chunks must be there from 0 on."""
    if not key.startswith(STACKED):
        return stored
    layers = sorted(chunk.offsets[0] for chunk in stored.chunks)
    if layers != list(range(len(layers))):
        raise ConvertError(f"{key}: some of its layers are missing: there are {layers}")
    return stored._replace(shape=(len(layers), *stored.shape))


class _Body:
    """The file that torch.save writes to: where it leaves room for a tensor's bytes, they are put."""

    def __init__(self, file: NewFile, blocks: Iterable[Tensor], num_bytes: int) -> None:
        self.file, self.blocks, self.num_bytes, self.start = file, blocks, num_bytes, file.tell()

    def write(self, data: memoryview) -> int:
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell() - self.start

    def seek(self, distance: int, whence: int) -> None:
        assert (distance, whence) == (self.num_bytes, io.SEEK_CUR), "torch.save leaves room for something else"
        for block in self.blocks:
            self.file.write(raw_bytes(block))

    def flush(self) -> None:
        pass


def _save_tensor(info: TensorInfo, blocks: Iterable[Tensor], file: NewFile) -> None:
    """What torch.save(tensor) writes, without the copy and the checksum of the bytes (SHA256SUMS has one)."""
    empty = torch.empty(info.shape, dtype=info.dtype)  # never touched, so it takes no memory
    try:
        with torch.serialization.skip_data():
            torch.save(empty, _Body(file, blocks, info.num_bytes))  # type: ignore[arg-type]
    except RuntimeError as error:  # torch finds its own file unfinished, and hides why
        raise error.__context__ if isinstance(error.__context__, (OSError, ConvertError)) else error from None
