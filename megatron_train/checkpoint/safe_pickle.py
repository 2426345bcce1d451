"""SHARED, torch-free: read pickles without running them, and check every pickle of a checkpoint folder.

Python's own unpickler replays a pickle, but every imported name is replaced by an inert stand-in, so no class or
function of the file is ever called. `inert_load` returns what a pickle describes. `scan_pickles` refuses a folder in
which any pickle imports a name outside ALLOWED_GLOBALS. It also finds the pickles inside `.distcp` files: `.metadata`
lists (file, offset, length) of every blob, and each blob is a torch.save archive.

    python -c "from megatron_train.checkpoint.safe_pickle import scan_pickles; scan_pickles('CKPT_DIR/iter_0000500')"
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

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
        ("argparse", "Namespace"),
        ("collections", "OrderedDict"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("__builtin__", "set"),
        ("torch.serialization", "_get_layout"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    }
)
"""(module, name) pairs that our checkpoints may import: containers, arguments, tensors and their metadata classes."""

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".bin", ".metadata"})
ARCHIVE_START = b"PK\x03\x04"

StandIn = Callable[[str, str], Any]
"""Function from the (module, name) of a pickle's import to the object that replaces it; None refuses the import."""


class UnsafePickleError(ValueError):
    """A pickle imports a name outside the allow-list or cannot be read. The message names the file."""


class Inert:
    """Harmless replacement of a class or function that a pickle imports. It only records what the pickle passes to it.

    `args` are constructor arguments, `state` is the instance's state, and `entries` are list items or (key, value)
    pairs.
    """

    args: tuple[Any, ...]
    state: Any
    entries: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.args, self.state, self.entries = args, None, []
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries.append((key, value))

    def append(self, value: Any) -> None:
        self.entries.append(value)

    def extend(self, values: Any) -> None:
        self.entries.extend(values)

    add = append


def allow_listed(module: str, name: str) -> Any:
    """Return Inert for a name of ALLOWED_GLOBALS and None for any other name."""
    return Inert if (module, name) in ALLOWED_GLOBALS else None


class _InertUnpickler(pickle.Unpickler):
    """Python's unpickler, with imports replaced by `stand_in`, and references to tensor bytes by `storage`."""

    def __init__(self, file: IO[bytes], name: str, stand_in: StandIn, storage: Callable[[Any], Any]) -> None:
        super().__init__(file)
        self.name, self.stand_in, self.storage = name, stand_in, storage

    def find_class(self, module: str, attribute: str) -> Any:
        found = self.stand_in(module, attribute)
        if found is None:
            raise UnsafePickleError(
                f"{self.name}: refused: it imports {module}.{attribute}, which is not on the allow-list; "
                "do not use this file"
            )
        return found

    def persistent_load(self, identifier: Any) -> Any:
        return self.storage(identifier)


def inert_load(
    pickled: bytes | IO[bytes],
    name: str,
    stand_in: StandIn = allow_listed,
    storage: Callable[[Any], Any] = Inert,
    mapped_bytes: int = 0,
) -> Any:
    """Return the object that one pickle describes, with every import replaced by `stand_in`.

    `name` identifies the pickle in messages. `storage` turns the persistent id of a tensor's bytes into an object.
    `mapped_bytes` extends the memory limit for tensors that are mapped from their file. Raises UnsafePickleError when
    `stand_in` refuses an import, when the pickle is damaged, and when it exceeds the memory limit.
    """
    file = io.BytesIO(pickled) if isinstance(pickled, bytes) else pickled
    try:
        with limited_memory(mapped_bytes):
            return _InertUnpickler(file, name, stand_in, storage).load()
    except UnsafePickleError:
        raise
    except (Exception, RecursionError) as error:  # a damaged pickle raises almost anything
        raise UnsafePickleError(
            f"{name}: not a readable pickle ({type(error).__name__}: {error}); the file is damaged, fetch it again"
        ) from error


def scan_archive(file: IO[bytes], name: str) -> None:
    """Check that one torch.save file or blob imports only allowed names. Raises UnsafePickleError.

    It must be a zip archive with .pkl entries, or one bare pickle with nothing after it. torch recognizes an archive by
    its first bytes and zipfile by its last. A file on which the two disagree is refused, and so is torch's old format
    of several pickles in a row.
    """
    begins_as_archive = file.read(4) == ARCHIVE_START
    if begins_as_archive != _ends_as_archive(file, name):
        raise UnsafePickleError(f"{name}: neither an archive nor a plain pickle; do not use this file")
    file.seek(0)
    if begins_as_archive:
        _scan_entries(file, name)
        return
    blob = io.BytesIO(file.read())
    inert_load(blob, name)
    if blob.read(1):
        raise UnsafePickleError(f"{name}: refused: data follows its first pickle; do not use this file")


def _ends_as_archive(file: IO[bytes], name: str) -> bool:
    """Return whether zipfile finds the end of a zip archive in the file. Raises UnsafePickleError if it is cut off."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile as error:  # the end record is cut off
        raise UnsafePickleError(f"{name}: not a readable archive ({error}); the file is damaged") from error


def _scan_entries(file: IO[bytes], name: str) -> None:
    """Check that the .pkl entries of a zip archive import only allowed names.

    Raises UnsafePickleError, also for an archive that torch would read differently from zipfile.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            # torch would read a second directory of entries that zipfile does not see. It shifts every entry.
            if not entries or min(entry.header_offset for entry in entries) != 0 or archive.comment:
                raise UnsafePickleError(f"{name}: not an archive as torch writes them; do not use this file")
            for entry in entries:
                if entry.filename.lower().endswith(".pkl"):  # torch ignores the case of entry names
                    if entry.compress_type != zipfile.ZIP_STORED:
                        raise UnsafePickleError(
                            f"{name}: {entry.filename} is compressed, which torch never does; do not use this file"
                        )
                    inert_load(archive.read(entry), f"{name}:{entry.filename}")
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged archive raises almost anything
        raise UnsafePickleError(f"{name}: not a readable archive ({error}); the file is damaged") from error


def scan_pickles(folder: str | Path) -> None:
    """Check that all pickles in `folder`, including those inside `.distcp` files, import only allowed names.

    Raises UnsafePickleError that names the first file that is not safe.
    """
    root = Path(folder)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        if path.name == ".metadata":
            _scan_distributed_files(path)
        elif path.suffix in PICKLE_SUFFIXES:
            with path.open("rb") as file:
                scan_archive(file, str(path))


def _scan_distributed_files(metadata_path: Path) -> None:
    """Check the pickle `.metadata`, and every blob of the `.distcp` files that it lists. Raises UnsafePickleError."""
    metadata = inert_load(metadata_path.read_bytes(), str(metadata_path))
    for file_name, offset, length, key in _storage_entries(metadata, metadata_path):
        path = metadata_path.parent / file_name
        if Path(file_name).name != file_name or not path.is_file():
            raise UnsafePickleError(f"{metadata_path}: names {file_name!r} for {key}, which is not a file beside it")
        with path.open("rb") as file:
            scan_archive(io.BufferedReader(FileSlice(file.fileno(), offset, length)), f"{path}[{key}]")


class FileSlice(io.RawIOBase):
    """Read-only view of `length` bytes of an open file, beginning at `offset`. It copies only bytes that are read."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self.descriptor, self.offset, self.length, self.position = descriptor, offset, length, 0

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
        data = os.pread(self.descriptor, count, self.offset + self.position)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def _storage_entries(metadata: Any, path: Path) -> list[tuple[str, int, int, str]]:
    """Return (file, offset, length, key) of every blob that `metadata`, the contents of `.metadata`, lists.

    The key is the name of the blob's tensor or object. Raises UnsafePickleError for metadata of another form.
    """
    try:
        entries = []
        for index, info in metadata.state["storage_data"].items():
            where = info.state
            entries.append((where["relative_path"], where["offset"], where["length"], str(index.state["fqn"])))
        return entries
    except (AttributeError, KeyError, TypeError) as error:
        raise UnsafePickleError(f"{path}: not the metadata of a torch_dist checkpoint; the file is damaged") from error
