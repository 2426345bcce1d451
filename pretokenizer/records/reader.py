"""Read records from files: JSON lines, JSON lists, parquet; plain, gzip, zstandard, or inside a tar archive.

    for row, record in read_records(Path("train.jsonl.gz")):
        ...

The first bytes of a file decide how it is read, not its name: Open-Assistant's `.tar.gz` exports are gzip files of JSON
lines. Real tar archives are read without extracting them. A plain JSON-lines file can be read by byte ranges, so that
several processes share it. At most one record is in memory at a time.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, cast

import zstandard

from pretokenizer.records.decompress import open_gzip, open_zstd
from pretokenizer.records.file_names import RECORD_SUFFIXES
from pretokenizer.records.json_list import parse_list
from pretokenizer.records.json_text import (
    BYTE_ORDER_MARK,
    MAX_LINE_BYTES,
    OnBad,
    Reading,
    Record,
    RecordError,
    beginnings,
    fast_loads,
    line_name,
    lines_of_span,
    parse_lines,
    skip_line,
    starts_list,
)

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""Follows a first byte of 0x50 to 0x5f."""
_PARQUET_ROWS = 1024
"""Rows read at a time."""
_BLOCK_BYTES = 1 << 22
_MAX_DEPTH = 2
"""Limit of archives inside archives."""


class FileSpan(NamedTuple):
    """The lines of a file that begin in bytes [start, end), or a whole file."""

    path: str
    start: int = 0
    end: int = -1
    """-1: the span is the whole file."""


def split_file(path: Path, chunk_bytes: int) -> list[FileSpan]:
    """Split a plain JSON-lines file into spans of about `chunk_bytes`. Any other file gives one span."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if size <= chunk_bytes or _kind_of(head) != "plain" or starts_list(head):
        return [FileSpan(str(path))]
    starts = range(0, size, chunk_bytes)
    return [FileSpan(str(path), start, min(start + chunk_bytes, size)) for start in starts]


def read_records(
    source: Path | FileSpan, on_bad: OnBad | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each record of a file or span. Rows count from 0; blank lines have no row.

    A line or item that is not a record goes to `on_bad` and counts as a row. Raises RecordError for a damaged file, and
    for the first such line if there is no `on_bad`.
    """
    span = source if isinstance(source, FileSpan) else FileSpan(str(source))
    path = Path(span.path)
    reading = Reading(span.path, on_bad or _raise_bad, max_line_bytes)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            if span.end >= 0:
                lines = lines_of_span(file, span.start, span.end, max_line_bytes)
                yield from parse_lines(lines, reading, lambda line: None, span.start)
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
    """Return `file:line` of a record, or `file: record N` in a file without lines. Reads the file again."""
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
        if kind != "plain" or starts_list(head):
            return f"{path}: record {row + 1}"
        if span.end >= 0:
            lines = lines_of_span(stream, span.start, span.end, _BLOCK_BYTES)
        else:
            lines = beginnings(stream, _BLOCK_BYTES)
        number = 1
        for line in lines:
            row -= bool(line.strip())
            if row < 0:
                break
            number += 1
    return line_name(str(path), span.start, number)


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


def _read_stream(file: BinaryIO, head: bytes, reading: Reading, depth: int = 0) -> Iterator[tuple[int, Record]]:
    kind = _kind_of(head)
    if depth > _MAX_DEPTH:
        raise RecordError(f"{reading.name}: archives are nested too deep; unpack the file first")
    if kind in ("gzip", "zstd"):
        file = open_gzip(file) if kind == "gzip" else open_zstd(file)
        kind = _kind_of(cast(io.BufferedReader, file).peek(512)[:512])
    if kind == "parquet":
        raise RecordError(f"{reading.name}: cannot read a parquet file inside an archive; unpack it first")
    if kind == "tar":
        yield from _read_tar(file, reading, depth)
    else:
        buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
        yield from _parse_text(buffered, reading)


def _parse_text(file: io.BufferedReader, reading: Reading) -> Iterator[tuple[int, Record]]:
    """Read a JSON list, or JSON lines (also where the first of several lines is a list by itself)."""
    lines = iter(partial(file.readline, reading.max_line_bytes + 1), b"")
    if starts_list(file.peek(512)[:512]):
        start = [next(lines)]
        if start[0].endswith(b"\n") and _is_json(start[0]):
            for line in lines:
                start.append(line)
                if not line.isspace():
                    break
        if len(start) == 1 or start[-1].isspace():
            yield from parse_list(chain(start, iter(partial(file.read, _BLOCK_BYTES), b"")), reading)
            return
        lines = chain(start, lines)
    yield from parse_lines(lines, reading, partial(skip_line, file))


def _is_json(line: bytes) -> bool:
    try:
        fast_loads(line.removeprefix(BYTE_ORDER_MARK))
    except (ValueError, RecursionError):
        return False
    return True


def _read_tar(file: BinaryIO, reading: Reading, depth: int) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for the record files of a tar archive; rows count through all of them.

    Nothing is written to disk: links, devices and sparse files are skipped, and names are used in messages only.
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
        raise RecordError(f"{reading.name}: no .json or .jsonl file with records in the tar archive")


class _TarMember(tarfile.TarInfo):
    """A member that raises for a damaged or missing header. The library takes both for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from None


def _read_parquet(path: Path) -> Iterator[tuple[int, Record]]:
    import pyarrow
    import pyarrow.parquet

    try:
        row = 0
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for record in batch.to_pylist():
                    yield row, record
                    row += 1
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise RecordError(f"{path}: not a readable parquet file: {error}") from None
