"""Read files that torch.save wrote: zip archives, and the older format of several pickles in a row.

    state = read_archive(MappedFile(Path("pytorch_model-00001-of-00002.bin")))
    state["model.norm.weight"]           # a tensor over the file's own bytes

Nothing in the file runs: torch_pickle.py reads its pickles.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.tensors.torch_pickle import Names, named_functions, read_pickle, tensor_functions
from megatron_train.checkpoint.safe_pickle import FileSlice, Inert, UnsafePickleError

LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""First bytes of a file in torch.save's older format: a pickle of torch's magic number."""
LEGACY_PROTOCOL = 1001


class _Archive:
    """One torch.save zip archive that starts at `offset` of a mapped file."""

    def __init__(self, mapped: MappedFile, offset: int, length: int) -> None:
        self.mapped, self.offset = mapped, offset
        self.name = str(mapped.path) if offset == 0 else f"{mapped.path} (at byte {offset})"
        try:
            with zipfile.ZipFile(FileSlice(mapped.descriptor, offset, length)) as archive:
                self.entries = {"/".join(e.filename.split("/")[1:]): e for e in archive.infolist()}
                if self.entries["data.pkl"].compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile("its pickle is compressed, which torch never does")
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

    def locate(self, key: str) -> tuple[int, int]:
        """Return (offset in the file, number of bytes) of the elements that torch stored under `key`.

        Raises KeyError when they are missing, and UnsafePickleError when they are compressed.
        """
        entry = self.entries[f"data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnsafePickleError(
                f"{self.name}: a tensor is compressed, which torch never does; fetch the file again"
            )
        header = self.offset + entry.header_offset
        names = self.mapped.read(header + 26, 4)
        first = header + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
        return first, entry.file_size


def read_archive(mapped: MappedFile, offset: int = 0, length: int | None = None, kept: Names = ()) -> Any:
    """Return the object that torch.save wrote into a file, or into `length` bytes of it from `offset`.

    Without `length`, the object takes the rest of the file. Instances of the classes in `kept` (None: of every class)
    become Inert objects, which run no code. Raises ConvertError naming the file.
    """
    if length is None and mapped.read(0, len(LEGACY_START)) == LEGACY_START:
        return _read_legacy(mapped, kept)
    archive = _Archive(mapped, offset, mapped.size - offset if length is None else length)
    functions = tensor_functions(mapped, archive.name, archive.locate)
    return read_pickle(archive.pickled, archive.name, kept, functions, 2 * mapped.size)


def _read_legacy(mapped: MappedFile, kept: Names) -> Any:
    """Return the object in a file of the older format. `kept` and the errors are those of read_archive.

    The file holds pickles of a magic number, the protocol, the system, the object and the keys of its storages. The
    storages follow, which hold the elements of the tensors. The object is read twice: once to find the size of every
    storage, and once to map the tensors.
    """
    name, file = str(mapped.path), io.BufferedReader(FileSlice(mapped.descriptor, 0, mapped.size))
    _, protocol, system = (read_pickle(file, name) for _ in range(3))
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ConvertError(f"{name}: an unknown version of torch's older format; save it again with a recent torch")
    storages: dict[str, int] = {}

    def note(storage: Any, *_: Any) -> Inert:
        storages[storage.key] = storage.num_elements * storage.dtype.itemsize
        return Inert()

    start = file.tell()
    read_pickle(file, name, kept, named_functions(note, Inert))
    keys, places = read_pickle(file, name), {}
    for key in keys if isinstance(keys, list) else []:
        first = file.tell() + 8  # after the number of elements
        places[str(key)] = (first, storages.get(str(key), 0))
        file.seek(first + storages.get(str(key), 0))
    file.seek(start)
    return read_pickle(file, name, kept, tensor_functions(mapped, name, places.__getitem__), 2 * mapped.size)
