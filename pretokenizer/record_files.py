"""Records from files: JSON lines, JSON lists, parquet; plain, gzip, zstandard, or inside a tar archive.

    for row, record in read_records(Path("train.jsonl.gz")):
        ...

What a file is, is seen from its first bytes, not from its name: Open-Assistant's `.tar.gz` exports are gzip files of
JSON lines, and a real tar is read as well (without extracting it). A plain JSON-lines file can be read by byte range,
so that several processes share one file. Nothing larger than one record is held, a JSON list apart.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, cast

import zstandard

from pretokenizer.decompress import open_gzip, open_zstd

fast_loads: Callable[[bytes], Any]
try:
    from orjson import loads as fast_loads
except ImportError:
    fast_loads = json.loads

Record = dict[str, Any]
RECORD_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""After a first byte of 0x50 to 0x5f."""
_LIST_IN_MEMORY_BYTES = 256 << 20
_PARQUET_BATCH = 1024
_PLACE_BYTES = 1 << 20
"""Of each line, to see whether it is blank."""
_MAX_DEPTH = 2
"""Archives inside archives."""
MAX_LINE_BYTES = 64 << 20
OnBad = Callable[[int, str, str], None]
"""Gets (row, `file:line`, what is wrong) of a line or item that is no record."""


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


def read_records(
    source: Path | FileSpan, on_bad: OnBad | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, Record]]:
    """(row, record) for each record of a file or span; rows count from 0 in the file or span, blank lines not counted.

    A single line or item that is no record goes to `on_bad` and counts as a row. Raises RecordError: for it too where
    there is no `on_bad`, and always for a file that is damaged as a whole.
    """
    span = source if isinstance(source, FileSpan) else FileSpan(str(source))
    path = Path(span.path)
    reading = _Reading(span.path, on_bad or _raise_bad, max_line_bytes)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            if span.end >= 0:
                lines = _lines_of_span(file, span.start, span.end, max_line_bytes)
                yield from _parse_lines(lines, reading, lambda line: None, span.start)
            elif head.startswith(_PARQUET):
                yield from _read_parquet(path)
            else:
                yield from _read_stream(file, head, reading)
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror or error}") from None
    except RecordError:
        raise
    except (EOFError, zlib.error, zstandard.ZstdError, tarfile.TarError, OverflowError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: damaged or truncated: {error}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: {error}") from None


def place_of(span: FileSpan, row: int) -> str:
    """`file:line` of a record, `file: record N` where it has no line; found by reading again, for a report's sake."""
    path = Path(span.path)
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        kind = _kind_of(head)
        stream: BinaryIO = file
        if kind in ("gzip", "zstd"):
            stream = open_gzip(file) if kind == "gzip" else open_zstd(file)
            head = cast(io.BufferedReader, stream).peek(512)[:512]
            kind = _kind_of(head)
        if kind != "plain" or _starts_list(head):
            return f"{path}: record {row + 1}"
        if span.end >= 0:
            lines = _lines_of_span(stream, span.start, span.end, _PLACE_BYTES)
        else:
            lines = _beginnings(stream, _PLACE_BYTES)
        number = 1
        for line in lines:
            row -= bool(line.strip())
            if row < 0:
                break
            number += 1
    return _line_name(str(path), span.start, number)


class _Reading(NamedTuple):
    """What is the same for all of a file."""

    name: str
    """Of the file, for messages."""
    on_bad: OnBad
    max_line_bytes: int


def _raise_bad(row: int, place: str, reason: str) -> None:
    raise RecordError(f"{place}: {reason}")


def _kind_of(head: bytes) -> str:
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or (head[:1] in b"PQRSTUVWXYZ[\\]^_" and head[1:4] == _ZSTD_SKIPPABLE):
        return "zstd"
    if head.startswith(_PARQUET):
        return "parquet"
    return "tar" if head[257:262] == b"ustar" else "plain"


def _read_stream(file: BinaryIO, head: bytes, reading: _Reading, depth: int = 0) -> Iterator[tuple[int, Record]]:
    kind = _kind_of(head)
    if depth > _MAX_DEPTH:
        raise RecordError(f"{reading.name}: an archive in an archive in an archive; unpack it yourself")
    if kind in ("gzip", "zstd"):
        file = open_gzip(file) if kind == "gzip" else open_zstd(file)
        kind = _kind_of(cast(io.BufferedReader, file).peek(512)[:512])
    if kind == "parquet":
        raise RecordError(f"{reading.name}: a parquet file cannot be read inside an archive; unpack it")
    if kind == "tar":
        yield from _read_tar(file, reading, depth)
    else:
        buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
        yield from _parse_text(buffered, reading)


def _read_tar(file: BinaryIO, reading: _Reading, depth: int) -> Iterator[tuple[int, Record]]:
    """The record files inside a tar, in archive order; rows count on through them. Nothing is extracted: links,
    devices and sparse files are passed over, and a member's name goes into messages only.
    """
    row = 0

    def on_bad(_: int, place: str, reason: str) -> None:
        nonlocal row
        reading.on_bad(row, place, reason)
        row += 1

    with tarfile.open(fileobj=file, mode="r|", tarinfo=_TarMember) as archive:
        for member in archive:
            name = Path(member.name).name
            if not member.isreg() or member.issparse() or name.startswith("."):
                continue
            if not name.lower().endswith(RECORD_SUFFIXES):
                continue
            extracted = archive.extractfile(member)
            assert extracted is not None
            buffered = io.BufferedReader(cast(io.RawIOBase, extracted), buffer_size=1 << 20)
            inner = reading._replace(name=f"{reading.name}/{member.name.lstrip('/')}", on_bad=on_bad)
            for _, record in _read_stream(cast(BinaryIO, buffered), buffered.peek(512)[:512], inner, depth + 1):
                yield row, record
                row += 1
    if row == 0:
        raise RecordError(f"{reading.name}: a tar archive without a .json or .jsonl file that has records")


class _TarMember(tarfile.TarInfo):
    """The library takes a damaged header, or a missing one, for the end of the archive; this one raises."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from None


def _parse_text(file: io.BufferedReader, reading: _Reading) -> Iterator[tuple[int, Record]]:
    head = file.peek(512)[:512]
    if _starts_list(head):
        yield from _parse_list(file, reading)
    else:
        lines = iter(partial(file.readline, reading.max_line_bytes + 1), b"")
        yield from _parse_lines(lines, reading, partial(_skip_line, file))


def _starts_list(head: bytes) -> bool:
    """Whether the text begins with `[` (a byte order mark apart)."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _lines_of_span(file: BinaryIO, start: int, end: int, max_bytes: int = -2) -> Iterator[bytes]:
    """The lines that begin inside [start, end); a line over the end is finished, of one over `max_bytes` only the
    beginning comes.
    """
    position = start
    if start > 0:
        file.seek(start - 1)
        position = start - 1 + _skip_line(file, b"")
    file.seek(position)
    while position < end:
        line = file.readline(max_bytes + 1)
        if not line:
            return
        position += len(line)
        if 0 <= max_bytes < len(line):
            position += _skip_line(file, line)
        yield line


def _beginnings(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Each line, cut after `max_bytes`."""
    while line := file.readline(max_bytes):
        yield line
        _skip_line(file, line)


def _skip_line(file: BinaryIO, line: bytes) -> int:
    """Read to the end of the line that begins with `line`; the number of bytes read."""
    skipped = 0
    while not line.endswith(b"\n") and (line := file.readline(1 << 20)):
        skipped += len(line)
    return skipped


def _parse_lines(
    lines: Iterator[bytes], reading: _Reading, skip_rest: Callable[[bytes], object], span_start: int = 0
) -> Iterator[tuple[int, Record]]:
    row = 0
    for number, line in enumerate(lines, 1):
        if len(line) > reading.max_line_bytes:
            skip_rest(line)
            problem = f"a line of more than {reading.max_line_bytes / (1 << 20):g} MiB (--max_line_mb)"
            reading.on_bad(row, _line_name(reading.name, span_start, number), problem)
            row += 1
            continue
        try:
            record = fast_loads(line)
            if record.__class__ is dict:
                yield row, record
                row += 1
                continue
            problem = f"expected a JSON object, found a {type(record).__name__}"
        except (ValueError, RecursionError):
            stripped = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not stripped:
                continue
            record, problem = _slow_loads(stripped)
        if problem:
            reading.on_bad(row, _line_name(reading.name, span_start, number), problem)
        else:
            yield row, record
        row += 1


def _slow_loads(text: bytes) -> tuple[Any, str]:
    """(what the fast parser refuses and Python's does not: NaN, numbers out of range; or what is wrong with it)."""
    try:
        record = json.loads(text)
    except RecursionError:
        return None, "not valid JSON: nested too deep"
    except ValueError as error:
        return None, f"not valid JSON: {str(error).split(': line ')[0]}"
    return record, "" if isinstance(record, dict) else f"expected a JSON object, found a {type(record).__name__}"


def _line_name(name: str, span_start: int, number: int) -> str:
    """`file:line`; lines before a span are counted only now that someone asks."""
    if span_start:
        with Path(name).open("rb") as file:
            before = 0
            left = span_start
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                before += block.count(b"\n")
                left -= len(block)
            number += before + (0 if block.endswith(b"\n") else 1)
    return f"{name}:{number}"


def _parse_list(file: io.BufferedReader, reading: _Reading) -> Iterator[tuple[int, Record]]:
    head = file.read(_LIST_IN_MEMORY_BYTES)
    rest = file.peek(1)
    items = _parse_large_list(head, file, reading) if rest else iter(_load_list(head, reading.name))
    for row, record in enumerate(items):
        if isinstance(record, dict):
            yield row, record
        else:
            found = type(record).__name__
            reading.on_bad(row, f"{reading.name}: item {row + 1}", f"expected a JSON object, found a {found}")


def _load_list(text: bytes, name: str) -> list[Any]:
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        return cast(list[Any], fast_loads(text))
    except (ValueError, RecursionError):
        try:
            return cast(list[Any], json.loads(text))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{name}: not valid JSON: {error}") from None


def _parse_large_list(head: bytes, file: io.BufferedReader, reading: _Reading) -> Iterator[Any]:
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
            left = len(window) - position
            more = text.read(max(1 << 22, left)) if left <= reading.max_line_bytes else ""
            if not more:
                raise RecordError(f"{reading.name}: item {number + 1}: not valid JSON: {error.msg}") from None
            window, position = window[position:] + more, 0
            continue
        number += 1
        yield item


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
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for record in batch.to_pylist():
                    yield row, record
                    row += 1
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise RecordError(f"{path}: not a readable parquet file: {error}") from None
