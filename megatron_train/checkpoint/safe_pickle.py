"""SHARED, torch-free: checks every pickle of a checkpoint folder against an allow-list of names, running none of them.

A pickle is replayed by Python's own unpickler, but each name it imports is looked up in ALLOWED_GLOBALS and replaced by
an inert stand-in, so even an allowed class is never called. The stand-ins keep what they were given, which is how the
entries inside the `.distcp` files are found: `.metadata` lists (file, offset, length) of every blob, and each blob is a
torch.save archive of its own.

    python -c "from megatron_train.checkpoint.safe_pickle import scan_pickles; scan_pickles('CKPT_DIR/iter_0000500')"
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

from pretokenizer.files.limits import limited_memory

_TORCH_NAMES = (
    "Size device ByteStorage FloatStorage BFloat16Storage HalfStorage LongStorage IntStorage ShortStorage CharStorage "
    "DoubleStorage BoolStorage contiguous_format preserve_format strided "
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
)
_METADATA_NAMES = (
    "Metadata MetadataIndex TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata TensorProperties "
    "StorageMeta _MEM_FORMAT_ENCODING"
)
_PLANNER_NAMES = "SavePlan WriteItem WriteItemType TensorWriteData BytesIOWriteData"
ALLOWED_GLOBALS = frozenset(
    {("torch", name) for name in _TORCH_NAMES.split()}
    | {("torch.distributed.checkpoint.metadata", name) for name in _METADATA_NAMES.split()}
    | {("torch.distributed.checkpoint.planner", name) for name in _PLANNER_NAMES.split()}
    | {
        ("collections", "OrderedDict"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("__builtin__", "set"),
        ("torch.serialization", "_get_layout"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    }
)
"""(module, name) pairs that a checkpoint of ours may import: containers, tensors and its own metadata classes."""

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".bin", ".metadata"})


class UnsafePickleError(ValueError):
    """A pickle that imports a name outside the allow-list, or that cannot be read: the message names the file."""


class Inert:
    """Stand-in for any imported name: accepts every operation a pickle can ask of it, does nothing, keeps its state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args: tuple[Any, ...] = args
        self.state: Any = None
        self.entries: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        self.__init__()  # type: ignore[misc]
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries.append((key, value))

    def append(self, value: Any) -> None:
        self.entries.append(value)

    def extend(self, values: Any) -> None:
        self.entries.extend(values)

    add = append


class _InertUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], name: str, allowed: frozenset[tuple[str, str]]) -> None:
        super().__init__(file)
        self.name, self.allowed = name, allowed

    def find_class(self, module: str, attribute: str) -> Any:
        if (module, attribute) not in self.allowed:
            raise UnsafePickleError(
                f"{self.name}: refused: it would import {module}.{attribute}, which such a file has no need of; "
                "do not use this file"
            )
        return Inert

    def persistent_load(self, identifier: Any) -> Any:
        return Inert(identifier)


def inert_load(blob: bytes, name: str, allowed: frozenset[tuple[str, str]] = ALLOWED_GLOBALS) -> Any:
    """The object of one pickle, every import replaced by Inert. `name` is for messages. Raises UnsafePickleError."""
    return _load(io.BytesIO(blob), name, allowed)


def _load(file: IO[bytes], name: str, allowed: frozenset[tuple[str, str]]) -> Any:
    try:
        with limited_memory():
            return _InertUnpickler(file, name, allowed).load()
    except UnsafePickleError:
        raise
    except (Exception, RecursionError) as error:  # a damaged pickle raises almost anything
        raise UnsafePickleError(
            f"{name}: not a readable pickle ({type(error).__name__}: {error}); the file is damaged"
        ) from error


def scan_archive(file: IO[bytes], name: str, allowed: frozenset[tuple[str, str]] = ALLOWED_GLOBALS) -> None:
    """One torch.save blob: a zip archive whose .pkl entries are checked, or one bare pickle and nothing after it.

    torch decides by the first bytes whether a file is an archive, zipfile by the last; what only one of them takes for
    one is refused, and so is torch's old format of several pickles in a row.
    """
    begins_as_archive = file.read(4) == b"PK\x03\x04"
    if begins_as_archive != _ends_as_archive(file, name):
        raise UnsafePickleError(f"{name}: neither an archive nor a plain pickle; do not use this file")
    file.seek(0)
    if begins_as_archive:
        _scan_entries(file, name, allowed)
        return
    blob = io.BytesIO(file.read())
    _load(blob, name, allowed)
    if blob.read(1):
        raise UnsafePickleError(f"{name}: refused: holds more after its first pickle; do not use this file")


def _ends_as_archive(file: IO[bytes], name: str) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile as error:  # it looks like one, and breaks off
        raise UnsafePickleError(f"{name}: not a readable archive ({error}); the file is damaged") from error


def _scan_entries(file: IO[bytes], name: str, allowed: frozenset[tuple[str, str]]) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            # A second directory of entries, which zipfile does not see and torch does, shifts every entry.
            if not entries or min(entry.header_offset for entry in entries) != 0 or archive.comment:
                raise UnsafePickleError(f"{name}: not an archive as torch writes them; do not use this file")
            for entry in entries:
                if entry.filename.lower().endswith(".pkl"):  # torch finds entries whatever their case
                    if entry.compress_type != zipfile.ZIP_STORED:
                        raise UnsafePickleError(f"{name}: {entry.filename} is compressed, as torch writes none")
                    _load(io.BytesIO(archive.read(entry)), f"{name}:{entry.filename}", allowed)
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged archive raises almost anything
        raise UnsafePickleError(f"{name}: not a readable archive ({error}); the file is damaged") from error


def scan_pickles(folder: str | Path) -> None:
    """Checks every pickle in `folder`, those inside `.distcp` files too; UnsafePickleError names the first bad one."""
    root = Path(folder)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        if path.name == ".metadata":
            _scan_distributed_files(path)
        elif path.suffix in PICKLE_SUFFIXES:
            with path.open("rb") as file:
                scan_archive(file, str(path))


def _scan_distributed_files(metadata_path: Path) -> None:
    metadata = inert_load(metadata_path.read_bytes(), str(metadata_path))
    for file_name, offset, length, key in _storage_entries(metadata, metadata_path):
        path = metadata_path.parent / file_name
        if Path(file_name).name != file_name or not path.is_file():
            raise UnsafePickleError(f"{metadata_path}: names {file_name!r} for {key}, which is not a file beside it")
        with path.open("rb") as file:
            scan_archive(io.BufferedReader(_Slice(file, offset, length)), f"{path}[{key}]")


class _Slice(io.RawIOBase):
    """Read-only view of `length` bytes of a file from `offset` on: an archive is read without copying its tensor."""

    def __init__(self, file: IO[bytes], offset: int, length: int) -> None:
        self.file, self.offset, self.length, self.position = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.length - self.position))
        self.file.seek(self.offset + self.position)
        data = self.file.read(count)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def _storage_entries(metadata: Any, path: Path) -> list[tuple[str, int, int, str]]:
    try:
        entries = []
        for index, info in metadata.state["storage_data"].items():
            where = info.state
            entries.append((where["relative_path"], where["offset"], where["length"], str(index.state["fqn"])))
        return entries
    except (AttributeError, KeyError, TypeError) as error:
        raise UnsafePickleError(f"{path}: not the metadata of a torch_dist checkpoint; the file is damaged") from error
