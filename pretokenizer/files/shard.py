"""The shard format: one .bin and one .idx file. (SHARED)

A shard holds N items, one after another. Each item is a 1-D array of whole numbers.

`PREFIX.bin` holds the elements of all items, little-endian, and nothing else.
`PREFIX.idx` is little-endian and unaligned:

    offset     bytes  field
    0          9      magic  4D 4D 49 44 49 44 58 00 00  ("MMIDIDX", two NUL)
    9          8      uint64 version = 1
    17         1      uint8  element type: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float64, 7 float32, 8 uint16
    18         8      uint64 N, number of items
    26         8      uint64 D, number of document entries
    34         4*N    int32  sizes, elements of each item
    34+4*N     8*N    int64  pointers, byte offset of each item in the .bin
    34+12*N    8*D    int64  document index

This is the "mmap" format of Megatron. ShardWriter writes the document index 0..N, so every item is a document and
megatron-core's IndexedDataset reads the files. ShardReader also accepts the index `[0]` of Open-Assistant's original.
Element types that are not whole numbers are refused.

    with ShardWriter("out/P-train-text", optimal_dtype(32007)) as writer:
        writer.add([32005, 1404, 13])
    ShardReader("out/P-train-text")[0]        # array([32005, 1404, 13], dtype=uint16)

Source: LAION-AI/Open-Assistant f1e6ed9 pretokenizer/indexed_dataset.py, NVIDIA/Megatron-LM d98e8a6 indexed_dataset.py.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER_BYTES = 34
DTYPE_OF_CODE: dict[int, type[np.integer[Any]]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
}
CODE_OF_DTYPE = {np.dtype(dtype): code for code, dtype in DTYPE_OF_CODE.items()}
_HEADER = struct.Struct("<9sQBQQ")


class ShardError(ValueError):
    """A shard that cannot be read or written. The message names the file."""


def optimal_dtype(vocab_size: int) -> type[np.integer[Any]]:
    """Return the element type for token ids: uint16 for a vocabulary below 65,500 tokens, else int32.

    Open-Assistant has the same rule, so the bytes of its shards and ours agree.
    """
    return np.uint16 if vocab_size < 65500 else np.int32


class ShardReader(Sequence[NDArray[Any]]):
    """Reads the items of a shard through a memory map. The constructor checks every number in the index.

    The arrays that it returns stay valid after the reader is deleted. A pickled reader holds only the path, so each
    worker process maps the files itself. The constructor raises ShardError for a file that is missing or damaged.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        self.sizes, self.pointers, self.document_index, self.dtype = _read_index(self.prefix + ".idx")
        """The fields of the .idx file: int32 (N,), int64 (N,), int64 (D,), and the type of the elements."""
        self._bin = _map_file(self.prefix + ".bin")
        _check_pointers(self.prefix, self.sizes, self.pointers, self.dtype.itemsize, self._bin.size)

    def __len__(self) -> int:
        return int(self.sizes.size)

    def __getitem__(self, index: Any) -> Any:
        """Return item `index` as a read-only 1-D array, or a list of such arrays when `index` is a slice."""
        if isinstance(index, slice):
            return [self.get(i) for i in range(*index.indices(len(self)))]
        return self.get(index)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self.get(index) for index in range(len(self)))

    def get(self, index: int, offset: int = 0, length: int | None = None) -> NDArray[Any]:
        """Return `length` elements of item `index`, starting at element `offset`, as a read-only array (length,).

        By default the elements extend to the end of the item. Raises IndexError for an item that does not exist, and
        ShardError for a range outside the item.
        """
        position = int(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"{self.prefix}: has {len(self)} items, so there is no item {index}")
        size = int(self.sizes[position])
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise ShardError(f"{self.prefix}: item {index} has {size} elements, not {offset}..{offset + length}")
        start = int(self.pointers[position]) + offset * self.dtype.itemsize
        return self._bin[start : start + length * self.dtype.itemsize].view(self.dtype)

    @property
    def is_contiguous(self) -> bool:
        """Whether the items fill the .bin file in order and without gaps."""
        ends = np.cumsum(self.sizes, dtype=np.int64) * self.dtype.itemsize
        starts = ends - self.sizes.astype(np.int64) * self.dtype.itemsize
        return bool(np.array_equal(self.pointers, starts)) and int(self._bin.size) == (
            int(ends[-1]) if len(self) else 0
        )

    def flat(self) -> NDArray[Any]:
        """Return the elements of all items as one read-only 1-D array. Raises ShardError when the .bin has gaps."""
        if not self.is_contiguous:
            raise ShardError(f"{self.prefix}.bin: items are not stored one after another")
        return self._bin.view(self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.prefix,))


class ShardWriter:
    """Writes a shard item by item or in batches. The files appear when the `with` block ends without an error.

    They are not flushed to disk; publish_folder flushes them later. Raises ShardError for a value that does not fit the
    element type.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike) -> None:
        self.prefix = str(prefix)
        self.dtype = np.dtype(dtype)
        if self.dtype not in CODE_OF_DTYPE:
            raise ShardError(f"{self.prefix}: element type {self.dtype} has no code in the shard format")
        self.num_items = 0
        self.num_elements = 0
        self._sizes: list[NDArray[np.int32]] = []
        self._pending: list[int] = []
        self._file: BinaryIO | None = None
        self._temporary = f"{self.prefix}.bin.{os.getpid()}.tmp"

    def __enter__(self) -> "ShardWriter":
        self._file = Path(self._temporary).open("wb")
        return self

    def add(self, ids: ArrayLike) -> None:
        """Append one item, a 1-D sequence of whole numbers, which may be empty."""
        array = self._as_elements(ids)
        self._write(array)
        self._pending.append(array.size)
        self.num_items += 1

    def add_batch(self, flat_ids: ArrayLike, sizes: ArrayLike) -> None:
        """Append N items at once: `flat_ids` holds the elements of all items, `sizes` (N,) their lengths."""
        array = self._as_elements(flat_ids)
        lengths = np.asarray(sizes, dtype=np.int64).reshape(-1)
        if int(lengths.sum()) != array.size or (lengths.size and int(lengths.min()) < 0):
            raise ShardError(
                f"{self.prefix}: sizes add up to {int(lengths.sum())}, but {array.size} elements were given"
            )
        self._flush_pending()
        self._write(array)
        self._sizes.append(lengths.astype(np.int32))
        self.num_items += int(lengths.size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            if kind is None:
                self._publish()
        finally:
            self._file.close()
            Path(self._temporary).unlink(missing_ok=True)

    def _as_elements(self, ids: ArrayLike) -> NDArray[Any]:
        array = np.asarray(ids)
        if array.dtype == self.dtype:
            return np.ascontiguousarray(array).reshape(-1)
        if array.size == 0:
            return np.empty(0, dtype=self.dtype)
        if array.dtype.kind not in "iub":
            raise ShardError(f"{self.prefix}: expected whole numbers, found {array.dtype}")
        limits = np.iinfo(self.dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise ShardError(f"{self.prefix}: values {low}..{high} do not fit {self.dtype}")
        return np.ascontiguousarray(array, dtype=self.dtype).reshape(-1)

    def _write(self, array: NDArray[Any]) -> None:
        if self._file is None:
            raise ShardError(f"{self.prefix}: use the writer in a `with` block")
        elements = array.astype(self.dtype.newbyteorder("<"), copy=False)
        self._file.write(memoryview(elements).cast("B"))  # type: ignore[arg-type]  # ndarray.tofile hides the reason of a failure
        self.num_elements += array.size

    def _flush_pending(self) -> None:
        if self._pending:
            self._sizes.append(np.array(self._pending, dtype=np.int32))
            self._pending = []

    def _publish(self) -> None:
        assert self._file is not None
        self._flush_pending()
        self._file.flush()
        sizes = np.concatenate(self._sizes) if self._sizes else np.empty(0, dtype=np.int32)
        write_index(self.prefix + ".idx", sizes, self.dtype)
        Path(self._temporary).replace(self.prefix + ".bin")


def write_index(path: str | Path, sizes: NDArray[np.int32], dtype: DTypeLike) -> None:
    """Write the .idx file of a shard whose N items are stored one after another. `sizes` (N,) holds their lengths."""
    dtype = np.dtype(dtype)
    pointers = np.zeros(sizes.size, dtype="<i8")
    np.cumsum(sizes[:-1], dtype=np.int64, out=pointers[1:])
    pointers *= dtype.itemsize
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with Path(temporary).open("wb") as file:
            file.write(_HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[dtype], sizes.size, sizes.size + 1))
            file.write(sizes.astype("<i4").tobytes())
            file.write(pointers.tobytes())
            file.write(np.arange(sizes.size + 1, dtype="<i8").tobytes())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _map_file(path: str) -> NDArray[np.uint8]:
    try:
        if Path(path).stat().st_size == 0:
            return np.empty(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise ShardError(f"{path}: cannot open: {error.strerror or error}") from None


def _read_index(path: str) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], np.dtype[Any]]:
    raw = _map_file(path)
    if raw.size < HEADER_BYTES:
        raise ShardError(f"{path}: {raw.size} bytes, too short for an index (truncated?)")
    magic, version, code, num_items, num_entries = _HEADER.unpack(raw[:HEADER_BYTES].tobytes())
    if magic != MAGIC:
        raise ShardError(f"{path}: not a shard index (magic {magic!r}, expected {MAGIC!r})")
    if version != VERSION:
        raise ShardError(f"{path}: index version {version}, this program reads {VERSION}")
    if code not in DTYPE_OF_CODE:
        raise ShardError(f"{path}: element type code {code} is not one of {sorted(DTYPE_OF_CODE)}")
    expected = HEADER_BYTES + 12 * num_items + 8 * num_entries
    if raw.size != expected:
        raise ShardError(f"{path}: {raw.size} bytes, but {num_items} items and {num_entries} documents need {expected}")
    sizes_end, pointers_end = HEADER_BYTES + 4 * num_items, HEADER_BYTES + 12 * num_items
    # The fields are unaligned in the file, so they are copied; a copy takes 12 bytes for each item.
    sizes = np.frombuffer(raw[HEADER_BYTES:sizes_end].tobytes(), dtype="<i4").astype(np.int32, copy=False)
    pointers = np.frombuffer(raw[sizes_end:pointers_end].tobytes(), dtype="<i8").astype(np.int64, copy=False)
    documents = np.frombuffer(raw[pointers_end:].tobytes(), dtype="<i8").astype(np.int64, copy=False)
    if num_items and int(sizes.min()) < 0:
        raise ShardError(f"{path}: item {int(sizes.argmin())} has the negative size {int(sizes.min())}")
    is_usual = documents.tolist() == [0] or np.array_equal(documents, np.arange(num_items + 1))
    ends = documents[-1:].tolist()
    if not is_usual and (not ends or ends[0] > num_items or documents[0] < 0 or bool((np.diff(documents) < 0).any())):
        raise ShardError(f"{path}: the document index does not fit {num_items} items")
    return sizes, pointers, documents, np.dtype(DTYPE_OF_CODE[code]).newbyteorder("<")


def _check_pointers(
    prefix: str, sizes: NDArray[np.int32], pointers: NDArray[np.int64], itemsize: int, bin_bytes: int
) -> None:
    total = int(sizes.sum(dtype=np.int64)) * itemsize
    if bin_bytes < total:
        raise ShardError(f"{prefix}.bin: {bin_bytes} bytes, but the index names {total} (truncated?)")
    if bin_bytes % itemsize:
        raise ShardError(f"{prefix}.bin: {bin_bytes} bytes is not a whole number of {itemsize}-byte elements")
    if not sizes.size:
        return
    ends = pointers + sizes.astype(np.int64) * itemsize
    bad = (pointers < 0) | (ends > bin_bytes) | (ends < pointers) | (pointers % itemsize != 0)
    if bool(bad.any()):
        item = int(bad.argmax())
        raise ShardError(
            f"{prefix}.idx: item {item} is at bytes {int(pointers[item])}..{int(ends[item])}, "
            f"outside a .bin of {bin_bytes} bytes"
        )
