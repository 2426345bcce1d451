"""Read the weights of a Hugging Face folder (safetensors or pytorch_model*.bin), and write safetensors shards.

    source = HfWeights(Path("HF_DIR"));  source.read("model.norm.weight")
    sink = SafetensorsWriter(folder, infos, max_shard_bytes=2_000_000_000)
    sink.write(name, info, blocks);  sink.close()

Tensors are mapped from their files. The writer is given all names and shapes first and takes the tensors in that order,
so that no shard is held in memory. Format of a shard: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from checkpoint_convert.output.report import warn
from checkpoint_convert.tensors.hashed_file import NewFile
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo, raw_bytes
from checkpoint_convert.tensors.torch_archive import read_archive
from megatron_train.checkpoint.recognize import described
from pretokenizer.files.checksums import SHA256SUMS, differing_files
from pretokenizer.files.publish import read_json

_NAMES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_WORDS = {dtype: word for word, dtype in _NAMES.items()}
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_SUFFIXES = (".safetensors", ".bin")
WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
SINGLE = ("model.safetensors", "pytorch_model.bin")


Reader = Callable[[str], Tensor]
"""Returns a tensor of one open weight file by name."""


class HfWeights:
    """The weights of a Hugging Face folder as named tensors.

    safetensors files are read if the folder has them, else pickles (pytorch_model*.bin). A wrapper's prefix of every
    name, such as torch.compile's, is removed with a warning. Raises ConvertError naming a missing or damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.infos: dict[str, TensorInfo] = {}
        self._files: dict[str, Reader] = {}
        self.file_of, files = _weight_files(folder)
        for file in files:
            self._open(file)
        missing = [name for name in self.file_of if name not in self.infos]
        if missing:
            raise ConvertError(
                f"{folder}: {self.file_of[missing[0]]} lacks {', '.join(missing[:5])}, which the index places in it"
            )

        self._prefix = common_prefix(self.infos)
        if self._prefix:
            warn(f"{folder}: the prefix {self._prefix} of every tensor's name is removed")
            self.infos = {name.removeprefix(self._prefix): info for name, info in self.infos.items()}

    def read(self, name: str) -> Tensor:
        """Return the tensor `name`, mapped from its file without a copy."""
        stored = self._prefix + name
        return self._files[self.file_of[stored]](stored)

    def _open(self, file: str) -> None:
        path = self.folder / file
        if not path.is_file():
            raise ConvertError(f"{path}: missing, but the index names it; fetch it")
        self._files[file], infos = (_open_safetensors if path.suffix == ".safetensors" else _open_pickle)(path)
        for name, info in infos.items():
            if self.file_of.setdefault(name, file) != file:
                raise ConvertError(
                    f"{path}: has {name}, which the index places in {self.file_of[name]}; fetch the index again"
                )
            self.infos[name] = info


def common_prefix(names: Iterable[str]) -> str:
    """Return the prefix that a wrapper such as torch.compile put before every name, or an empty string.

    Several wrappers may have put one prefix before another.
    """
    found, left = "", list(names)
    while wrapper := next((w for w in WRAPPERS if left and all(name.startswith(w) for name in left)), ""):
        found, left = found + wrapper, [name.removeprefix(wrapper) for name in left]
    return found


def check_weight_sums(folder: Path) -> None:
    """Compare a folder's weight files with its SHA256SUMS, if it has one. Raises ConvertError naming files that differ.

    Other files are not compared, because people edit a README or a config.
    """
    if not (folder / SHA256SUMS).is_file():
        return
    names = [path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES]
    if different := differing_files(folder, names):
        paths = ", ".join(map(str, different))
        raise ConvertError(f"{paths}: contents differ from {SHA256SUMS}; fetch the file again")


def _open_safetensors(path: Path) -> tuple[Reader, dict[str, TensorInfo]]:
    """Check a file with the safetensors library. Return its Reader, and the shape and dtype of each tensor by name.

    The Reader maps each tensor from the file.
    """
    mapped = MappedFile(path, is_read_ahead=True)  # raises with the reason when it may not be read
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ConvertError(f"{path}: not a complete safetensors file ({error}); fetch it again") from None
    length = int.from_bytes(mapped.read(0, 8), "little")
    header = json.loads(mapped.read(8, length))
    infos = {}
    for name in names:
        if header[name]["dtype"] not in _NAMES:
            raise ConvertError(
                f"{path}: {name} has type {header[name]['dtype']}, which cannot be converted; use unquantized weights"
            )
        infos[name] = TensorInfo(tuple(header[name]["shape"]), _NAMES[header[name]["dtype"]])

    def read(name: str) -> Tensor:
        start = 8 + length + header[name]["data_offsets"][0]
        return mapped.tensor(start, infos[name].num_bytes, infos[name].dtype).view(infos[name].shape)

    return read, infos


def _open_pickle(path: Path) -> tuple[Reader, dict[str, TensorInfo]]:
    state = read_archive(MappedFile(path))
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConvertError(f"{path}: expected a dict of tensors")
    return state.__getitem__, {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in state.items()}


def _weight_files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the index ({tensor name: file name}) and the names of all weight files.

    Without an index, for a single file, the first is {}. Raises ConvertError when weights or the index are missing.
    """
    if not folder.is_dir():
        raise ConvertError(f"{folder}: no such folder")
    for index, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / single).is_file():  # before the index, as in transformers
            return {}, [single]
        if (folder / index).is_file():
            weight_map = _read_index(folder / index)
            return weight_map, list(dict.fromkeys(weight_map.values()))
    shards = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if shards and not (folder / "adapter_config.json").is_file():
        raise ConvertError(
            f"{folder}: has weight files such as {shards[0]}, but no index; fetch {INDEXES[0]} (or {INDEXES[1]}) too"
        )
    raise ConvertError(
        f"{folder}: has no weights; expected model.safetensors, pytorch_model.bin or their index; {folder} "
        f"{described(folder)}"
    )


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = read_json(path)["weight_map"]
        items = list(weight_map.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: not an index of weights ({error!r})") from None
    for name, file in items:
        if not isinstance(file, str) or Path(file).name != file or Path(file).suffix not in WEIGHT_SUFFIXES:
            raise ConvertError(
                f"{path}: places {name} in {file!r}; expected the name of a weight file beside the index"
            )
    return dict(items)


class SafetensorsWriter:
    """Writes tensors into safetensors files (shards) of at most `max_shard_bytes`.

    A larger tensor gets a shard of its own. `infos` states in advance all tensors in the order of writing.
    """

    def __init__(self, folder: Path, infos: Mapping[str, TensorInfo], max_shard_bytes: int) -> None:
        self.folder, self.infos = folder, dict(infos)
        self.digests: dict[Path, str] = {}
        """SHA-256 of each complete shard, by path."""
        shards = plan_shards(self.infos, max_shard_bytes)
        self.file_names = shard_names(len(shards))
        self._shards = deque(zip(self.file_names, shards, strict=True))
        self._left: deque[str] = deque()  # tensors still missing in the current shard
        self._file: NewFile | None = None
        if len(shards) > 1:
            self._write_index(shards)

    def write(self, name: str, info: TensorInfo, blocks: Iterable[Tensor]) -> None:
        """Append the tensor `name`. Raises ConvertError when it is not the next one in the order of `infos`."""
        expected = self._left[0] if self._left else self._shards[0][1][0] if self._shards else None
        if name != expected or self.infos[name] != info:
            raise ConvertError(f"{name}: {info.shape} {info.dtype} is not the next tensor, {expected}")
        if not self._left:
            file_name, names = self._shards.popleft()
            self._file, self._left = NewFile(self.folder / file_name), deque(names)
            self._file.write(self._header(names))
        assert self._file is not None
        for block in blocks:
            self._file.write(raw_bytes(block))
        self._left.popleft()
        if not self._left:
            self.digests[self._file.path] = self._file.close()

    def close(self) -> None:
        """Check that all tensors were written. Raises ConvertError naming those of `infos` that were not."""
        missing = [*self._left, *(name for _, names in self._shards for name in names)]
        if missing:
            raise ConvertError(f"not written: {', '.join(missing[:5])}")

    def abandon(self) -> None:
        """Close the current shard. The folder stays incomplete and must be removed."""
        if self._file is not None:
            self._file.abandon()

    def _header(self, names: Iterable[str]) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            info = self.infos[name]
            start, end = end, end + info.num_bytes
            header[name] = {"dtype": _WORDS[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _write_index(self, shards: list[list[str]]) -> None:
        weight_map = {name: file for file, names in zip(self.file_names, shards, strict=True) for name in names}
        total = sum(info.num_bytes for info in self.infos.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (self.folder / INDEXES[0]).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def plan_shards(infos: Mapping[str, TensorInfo], max_shard_bytes: int) -> list[list[str]]:
    """Divide the tensor names, in order, into lists, one for each safetensors file (shard).

    A new shard starts when the next tensor would exceed `max_shard_bytes`. A larger tensor is a shard of its own.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.num_bytes
    return shards


def shard_names(count: int) -> list[str]:
    """Return the file names of `count` shards: `model.safetensors`, or `model-00001-of-00003.safetensors` and so on."""
    return [SINGLE[0]] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
