"""Read and write a megatron-core `torch_dist` checkpoint, one tensor at a time, without megatron-core.

    reader = CheckpointReader(Path("ckpt/release"))
    reader.read("decoder.layers.3.mlp.linear_fc1.weight")     # one layer of the stacked [layers, rows, columns]

torch.distributed.checkpoint defines the format, megatron-core 0.16.1 the names. `.metadata` maps each key to its shape,
dtype and chunks (metadata.py), and each chunk to (file, offset, length). A chunk is a torch.save archive. On disk, the
layers are stacked on axis 0 under `decoder.layers.`, and norms have the names of norm_names.py. Here, every layer is a
tensor of its own under its module name, `decoder.layers.<i>.input_layernorm.weight`. Training state is ignored.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from checkpoint_convert.megatron_core.metadata import Chunk, StoredTensor, read_metadata, write_metadata
from checkpoint_convert.tensors.hashed_file import NewFile
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, raw_bytes
from checkpoint_convert.tensors.torch_archive import read_archive
from megatron_train.checkpoint.safe_pickle import UnsafePickleError, scan_pickles
from megatron_train.config.norm_names import module_name, stock_name

STACKED = "decoder.layers."
WEIGHTS = ("embedding.", "decoder.", "output_layer.")
"""Prefixes of the keys that are weights. Optimizer and random state have other prefixes."""
MODEL_PREFIX = "model."
"""Prefix that some tools put before the key of every weight."""
FILE_BYTES = 1 << 30
"""Size in bytes at which CheckpointWriter starts a new file."""
ALIGNMENT = 64
"""Each tensor's archive starts at a multiple of this number of bytes, so that the tensor can be mapped in place."""
LINEAR_LAYERS = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def _stacked_key(name: str) -> tuple[str, int] | None:
    """Split the name of a layer's tensor into its key on disk and its layer number.

    An example is ("decoder.layers.mlp.linear_fc1.weight", 3). Return None for a tensor outside the layers.
    """
    match = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
    return (STACKED + match.group(2), int(match.group(1))) if match else None


class CheckpointReader:
    """Reads the weights of a checkpoint folder, whatever parallel layout saved it.

    Opening a folder checks that its pickles import allowed names only. With `is_foreign`, for folders of other tools,
    they may name anything, and none of it is imported. Raises ConvertError for a folder without readable weights.
    """

    def __init__(self, folder: Path, is_foreign: bool = False) -> None:
        self.folder = folder
        if not (folder / ".metadata").is_file():
            raise ConvertError(f"{folder}: has no .metadata, so it is not a torch_dist checkpoint")
        try:
            if not is_foreign:
                scan_pickles(folder)
        except UnsafePickleError as error:
            raise ConvertError(str(error)) from None
        self.infos: dict[str, TensorInfo] = {}
        stored = read_metadata(folder, is_foreign)
        prefix = MODEL_PREFIX if is_foreign and not any(key.startswith(WEIGHTS) for key in stored) else ""
        starts = tuple(prefix + start for start in WEIGHTS)
        self.other_keys = [key for key in stored if not key.startswith(starts)]
        """Keys of tensors that are not weights, such as optimizer states."""
        self._stored = {key: value for key, value in stored.items() if key.startswith(starts)}
        self._files: dict[str, MappedFile] = {}
        self._keys: dict[str, tuple[str, int | None]] = {}
        """Tensor name -> (key on disk, layer number or None)."""
        for key, tensor in self._stored.items():
            for name, layer, info in _names_of(key.removeprefix(prefix), tensor):
                self.infos[name], self._keys[name] = info, (key, layer)
        if not self.infos:
            raise ConvertError(f"{folder}: has no weights (no key starts with {', '.join(WEIGHTS)})")

    def read(self, name: str) -> Tensor:
        """Return one tensor, mapped from its file if a single chunk holds it, else copied together from its chunks.

        Raises ConvertError when the chunks do not cover the tensor.
        """
        info = self.infos[name]
        key, layer = self._keys[name]
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
        """Yield (offsets in the tensor, data) for each chunk that holds a part of it. The layer axis is removed."""
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


def _names_of(key: str, stored: StoredTensor) -> Iterator[tuple[str, int | None, TensorInfo]]:
    """Yield (name, layer number or None, shape and dtype) of each tensor that one key on disk holds.

    A key of stacked layers holds one tensor for each layer.
    """
    name = module_name(key)
    if not key.startswith(STACKED) or _stacked_key(key):  # outside the layers, or one layer stored alone
        yield name, None, TensorInfo(stored.shape, stored.dtype)
        return
    for layer in range(stored.shape[0]):
        yield f"{STACKED}{layer}.{name.removeprefix(STACKED)}", layer, TensorInfo(stored.shape[1:], stored.dtype)


class CheckpointWriter:
    """Writes tensors into a folder as a checkpoint that megatron-core loads in any layout. `close` completes it.

    Norms get megatron-core's names on disk, except in a model whose attention and MLP share one norm (`shared_norm`).
    """

    def __init__(self, folder: Path, shared_norm: bool = False) -> None:
        self.folder, self.shared_norm = folder, shared_norm
        self.digests: dict[Path, str] = {}
        """SHA-256 of each complete file of tensors, by path."""
        self._stored: dict[str, StoredTensor] = {}
        self._file = NewFile(folder / "__0_0.distcp")

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        """Append one tensor, whose elements `blocks` holds in C order.

        A layer's tensor becomes one chunk of the key that stacks all layers. Raises ConvertError when its shape or
        dtype differs from the other layers'.
        """
        key, layer = _stacked_key(name) or (name, None)
        key = key if self.shared_norm else stock_name(key)
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
        """Complete the checkpoint: write `.metadata`, `metadata.json`, and `common.pt` with the entries of `common`."""
        tensors = {key: _stack(key, stored) for key, stored in self._stored.items()}
        start = self._file.tell()
        torch.save([None], _Body(self._file, [], 0))  # type: ignore[arg-type]  # the state of one tensor-parallel rank
        empty = self._file.path.name, start, self._file.tell() - start
        self._finish_file()
        write_metadata(self.folder, tensors, dict.fromkeys(_extra_states(tensors), empty))
        (self.folder / "metadata.json").write_text(json.dumps(BACKEND))
        torch.save(common, self.folder / "common.pt")

    def _finish_file(self) -> None:
        self.digests[self._file.path] = self._file.close()

    def abandon(self) -> None:
        """Close the current file. The folder stays incomplete and must be removed."""
        self._file.abandon()


def _extra_states(tensors: Mapping[str, StoredTensor]) -> Iterator[str]:
    """Yield the keys under which megatron-core expects an extra state of each linear layer, which is empty here."""
    for linear in LINEAR_LAYERS:
        layers = tensors[f"{STACKED}{linear}.weight"].shape[0] if f"{STACKED}{linear}.weight" in tensors else 0
        yield from (f"{STACKED}{linear}._extra_state/shard_{layer}_{layers}" for layer in range(layers))


def _stack(key: str, stored: StoredTensor) -> StoredTensor:
    """Return the description of a tensor for `.metadata`. A layer's tensor gets an axis in front for all layers.

    Tensors outside the layers stay unchanged. Raises ConvertError when a layer is missing.
    """
    if not key.startswith(STACKED):
        return stored
    layers = sorted(chunk.offsets[0] for chunk in stored.chunks)
    if layers != list(range(len(layers))):
        raise ConvertError(f"{key}: has only the layers {layers}")
    return stored._replace(shape=(len(layers), *stored.shape))


class _Body:
    """A file object for torch.save. It writes `blocks` where torch only skips the `num_bytes` bytes of a tensor."""

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
    """Write what torch.save writes for a tensor with the elements `blocks`, without holding the tensor in memory.

    The archive has no checksum of its own, because SHA256SUMS has one.
    """
    empty = torch.empty(info.shape, dtype=info.dtype)  # never written to, so it takes no memory
    try:
        with torch.serialization.skip_data():
            torch.save(empty, _Body(file, blocks, info.num_bytes))  # type: ignore[arg-type]
    except RuntimeError as error:  # torch complains about its unfinished file and hides the cause
        causes = (OSError, ConvertError, KeyboardInterrupt)
        raise error.__context__ if isinstance(error.__context__, causes) else error from None
