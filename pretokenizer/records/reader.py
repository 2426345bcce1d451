"""Records from files: JSON lines, JSON lists, parquet; plain, gzip, zstandard, or inside a tar archive.

    for row, record in read_records(Path("train.jsonl.gz")):
        ...

What a file is, is seen from its first bytes, not from its name: Open-Assistant's `.tar.gz` exports are gzip files of
JSON lines, and a real tar is read as well (without extracting it). A plain JSON-lines file can be read by byte range,
so that several processes share one file. Nothing larger than one record is held, a JSON list apart.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self, cast

import zstandard

from pretokenizer.records.decompress import open_gzip, open_zstd
from pretokenizer.records.file_names import RECORD_SUFFIXES
from pretokenizer.records.json_text import (
    MAX_LINE_BYTES,
    OnBad,
    Reading,
    Record,
    RecordError,
    beginnings,
    line_name,
    lines_of_span,
    parse_lines,
    parse_text,
    starts_list,
)

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""After a first byte of 0x50 to 0x5f."""
_PARQUET_BATCH = 1024
_PLACE_BYTES = 1 << 20
"""Of each line, to see whether it is blank."""
_MAX_DEPTH = 2
"""Archives inside archives."""


class FileSpan(NamedTuple):
    """A file, or the lines of it that begin in bytes [start, end)."""

    path: str
    start: int = 0
    end: int = -1
    """-1 = to the end of the file."""


def split_file(path: Path, chunk_bytes: int) -> list[FileSpan]:
    """Spans of about `chunk_bytes` where the file can be read in pieces, else the file as one span."""
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
    """(row, record) for each record of a file or span; rows count from 0 in the file or span, blank lines not counted.

    A single line or item that is no record goes to `on_bad` and counts as a row. Raises RecordError: for it too where
    there is no `on_bad`, and always for a file that is damaged as a whole.
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
        if kind != "plain" or starts_list(head):
            return f"{path}: record {row + 1}"
        if span.end >= 0:
            lines = lines_of_span(stream, span.start, span.end, _PLACE_BYTES)
        else:
            lines = beginnings(stream, _PLACE_BYTES)
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
        yield from parse_text(buffered, reading)


def _read_tar(file: BinaryIO, reading: Reading, depth: int) -> Iterator[tuple[int, Record]]:
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
