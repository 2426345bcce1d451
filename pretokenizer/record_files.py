"""Records from files: JSON lines, JSON lists, parquet; plain, gzip, zstandard, or inside a tar archive.

    for row, record in read_records(Path("train.jsonl.gz")):
        ...

What a file is, is seen from its first bytes, not from its name: Open-Assistant's `.tar.gz` exports are gzip files of
JSON lines, and a real tar is read as well (without extracting it). A plain JSON-lines file can be read by byte range,
so that several processes share one file. Nothing larger than one record is held, a JSON list apart.
"""

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import zstandard

fast_loads: Callable[[bytes], Any]
try:
    from orjson import loads as fast_loads
except ImportError:
    fast_loads = json.loads

Record = dict[str, Any]
RECORD_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_LIST_IN_MEMORY_BYTES = 256 << 20
_PARQUET_BATCH = 1024


class RecordError(ValueError):
    """A record that cannot be read; the message names file and line (or row)."""


class FileSpan(NamedTuple):
    """A file, or the lines of it that begin in bytes [start, end)."""

    path: str
    start: int = 0
    end: int = -1
    """-1 = to the end of the file."""


def is_record_file(path: Path) -> bool:
    """Whether a file's name says that it holds records."""
    return path.is_file() and path.name.lower().endswith(RECORD_SUFFIXES) and not path.name.startswith(".")


def split_file(path: Path, chunk_bytes: int) -> list[FileSpan]:
    """Spans of about `chunk_bytes` where the file can be read in pieces, else the file as one span."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if size <= chunk_bytes or _kind_of(head) != "plain" or _starts_list(head):
        return [FileSpan(str(path))]
    starts = range(0, size, chunk_bytes)
    return [FileSpan(str(path), start, min(start + chunk_bytes, size)) for start in starts]


def read_records(source: Path | FileSpan) -> Iterator[tuple[int, Record]]:
    """(row, record) for each record of a file or span; rows count from 0 in the file or span, blank lines not counted.

    Raises RecordError.
    """
    span = source if isinstance(source, FileSpan) else FileSpan(str(source))
    path = Path(span.path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            if span.end >= 0:
                yield from _parse_lines(_lines_of_span(file, span.start, span.end), path, span.start)
            elif head.startswith(_PARQUET):
                yield from _read_parquet(path)
            else:
                yield from _read_stream(file, head, path)
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror or error}") from None
    except (EOFError, zlib.error, zstandard.ZstdError, tarfile.TarError) as error:
        raise RecordError(f"{path}: damaged or truncated: {error}") from None


def _kind_of(head: bytes) -> str:
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD):
        return "zstd"
    if head.startswith(_PARQUET):
        return "parquet"
    return "tar" if head[257:262] == b"ustar" else "plain"


def _read_stream(file: BinaryIO, head: bytes, path: Path) -> Iterator[tuple[int, Record]]:
    kind = _kind_of(head)
    if kind == "gzip":
        file, kind = _peekable(cast(BinaryIO, gzip.GzipFile(fileobj=file)))
    elif kind == "zstd":
        file, kind = _peekable(cast(BinaryIO, _ZstdFrames(file)))
    if kind == "tar":
        yield from _read_tar(file, path)
    else:
        buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
        yield from _parse_text(buffered, path)


def _peekable(file: BinaryIO) -> tuple[BinaryIO, str]:
    buffered = io.BufferedReader(cast(io.RawIOBase, file), buffer_size=1 << 20)
    return cast(BinaryIO, buffered), _kind_of(buffered.peek(512)[:512])


def _read_tar(file: BinaryIO, path: Path) -> Iterator[tuple[int, Record]]:
    """The record files inside a tar, in archive order; rows count on through them."""
    row = 0
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            name = Path(member.name).name
            if not member.isfile() or name.startswith(".") or not name.lower().endswith(RECORD_SUFFIXES):
                continue
            extracted = archive.extractfile(member)
            assert extracted is not None
            buffered = io.BufferedReader(cast(io.RawIOBase, extracted), buffer_size=1 << 20)
            for _, record in _read_stream(cast(BinaryIO, buffered), buffered.peek(512)[:512], path / member.name):
                yield row, record
                row += 1
    if row == 0:
        raise RecordError(f"{path}: a tar archive without a .json or .jsonl file that has records")


def _parse_text(file: io.BufferedReader, path: Path) -> Iterator[tuple[int, Record]]:
    head = file.peek(512)[:512]
    if _starts_list(head):
        yield from _parse_list(file, path)
    else:
        yield from _parse_lines(iter(file), path, 0)


def _starts_list(head: bytes) -> bool:
    """Whether the text begins with `[` (a byte order mark apart)."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _lines_of_span(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """The lines that begin inside [start, end); a line over the end is finished."""
    position = start
    if start > 0:
        file.seek(start - 1)
        position = start - 1 + len(file.readline())
    file.seek(position)
    while position < end:
        line = file.readline()
        if not line:
            return
        position += len(line)
        yield line


def _parse_lines(lines: Iterator[bytes], path: Path, span_start: int) -> Iterator[tuple[int, Record]]:
    row = 0
    for number, line in enumerate(lines, 1):
        try:
            record = fast_loads(line)
        except ValueError:
            stripped = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not stripped:
                continue
            record = _slow_loads(stripped, path, span_start, number)
        if record.__class__ is not dict:
            kind = type(record).__name__
            raise RecordError(f"{_line_name(path, span_start, number)}: expected a JSON object, found a {kind}")
        yield row, record
        row += 1


def _slow_loads(text: bytes, path: Path, span_start: int, number: int) -> Any:
    """What the fast parser refuses and Python's does not: NaN, numbers out of range. Raises RecordError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).split(": line ")[0]
        raise RecordError(f"{_line_name(path, span_start, number)}: not valid JSON: {reason}") from None


def _line_name(path: Path, span_start: int, number: int) -> str:
    """`file:line`; lines before a span are counted only now that someone asks."""
    if span_start:
        with path.open("rb") as file:
            before = 0
            left = span_start
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                before += block.count(b"\n")
                left -= len(block)
            number += before + (0 if block.endswith(b"\n") else 1)
    return f"{path}:{number}"


def _parse_list(file: io.BufferedReader, path: Path) -> Iterator[tuple[int, Record]]:
    head = file.read(_LIST_IN_MEMORY_BYTES)
    rest = file.peek(1)
    items = _parse_large_list(head, file, path) if rest else iter(_load_list(head, path))
    for row, record in enumerate(items):
        if not isinstance(record, dict):
            raise RecordError(f"{path}: item {row + 1}: expected a JSON object, found a {type(record).__name__}")
        yield row, record


def _load_list(text: bytes, path: Path) -> list[Any]:
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        return cast(list[Any], fast_loads(text))
    except ValueError:
        try:
            return cast(list[Any], json.loads(text))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}: not valid JSON: {error}") from None


def _parse_large_list(head: bytes, file: io.BufferedReader, path: Path) -> Iterator[Any]:
    """Items of a JSON list too large to hold, decoded one after another from a sliding window."""
    text = io.TextIOWrapper(io.BufferedReader(_Chained(head, file)), encoding="utf-8-sig")
    decoder = json.JSONDecoder()
    window, position, number = text.read(1 << 22).lstrip()[1:], 0, 0
    while True:
        while position < len(window) and window[position] in " \t\r\n,":
            position += 1
        try:
            if window[position : position + 1] == "]":
                return
            item, position = decoder.raw_decode(window, position)
        except json.JSONDecodeError as error:
            more = text.read(max(1 << 22, len(window) - position))
            if not more:
                raise RecordError(f"{path}: item {number + 1}: not valid JSON: {error.msg}") from None
            window, position = window[position:] + more, 0
            continue
        number += 1
        yield item


class _ZstdFrames(io.RawIOBase):
    """Decompressed zstandard frames. The library's own reader takes a truncated frame for the end; this one raises."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._input = b""
        self._output = io.BytesIO()
        self._is_inside_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (data := self._output.read(len(buffer))):
            self._input = self._input or self._file.read(1 << 18)
            if not self._input:
                if self._is_inside_frame:
                    raise EOFError("the last zstandard frame does not end")
                return 0
            self._output = io.BytesIO(self._frame.decompress(self._input))
            self._is_inside_frame = not self._frame.eof
            self._input = b"" if self._is_inside_frame else self._frame.unused_data
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        buffer[: len(data)] = data
        return len(data)


class _Chained(io.RawIOBase):
    """Bytes already read, then the rest of the file."""

    def __init__(self, head: bytes, rest: io.BufferedReader) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _read_parquet(path: Path) -> Iterator[tuple[int, Record]]:
    import pyarrow
    import pyarrow.parquet

    try:
        row = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for record in batch.to_pylist():
                    yield row, record
                    row += 1
    except pyarrow.ArrowException as error:
        raise RecordError(f"{path}: not a readable parquet file: {error}") from None
