"""Read records from files: JSON lines, JSON lists, CSV, TSV, parquet and Arrow; compressed, or inside a tar archive.

    for row, record in read_records(Path("train.jsonl.gz")):
        ...

The first bytes of a file decide how it is read, not its name: Open-Assistant's `.tar.gz` exports are gzip files of JSON
lines. Only CSV and TSV are recognised by the suffix. Tar archives are read without extracting them. A plain JSON-lines
file can be read by byte ranges, so that several processes share it. At most one record is in memory at a time.
"""

import codecs
import io
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, cast

from pretokenizer.records.decompress import DAMAGED, decompressed
from pretokenizer.records.file_names import has_record_suffix
from pretokenizer.records.json_file import is_json_lines, read_lines, read_list, read_object
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
)
from pretokenizer.records.kinds import COMPRESSED, HEAD_BYTES, kind_of
from pretokenizer.records.tables import read_arrow, read_csv, read_parquet

_BLOCK_BYTES = 1 << 20
_MAX_DEPTH = 4
"""Maximum nesting depth of archives inside archives. Each tar archive adds 2."""


class FileSpan(NamedTuple):
    """A range of a file to read: the lines that begin in bytes [start, end), or the whole file."""

    path: str
    start: int = 0
    end: int = -1
    """End of the range in bytes; -1 for the whole file."""


def split_file(path: Path, chunk_bytes: int) -> list[FileSpan]:
    """Return spans of about `chunk_bytes` that cover a plain JSON-lines file, so that several processes can share it.

    Any other file gives one span, the whole file. Raises RecordError for a file that cannot hold records.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD_BYTES), str(path))
        file.seek(0)
        if size <= chunk_bytes or not (kind == "lines" or (kind == "object" and is_json_lines(file, _BLOCK_BYTES))):
            return [FileSpan(str(path))]
    starts = range(0, size, chunk_bytes)
    return [FileSpan(str(path), start, min(start + chunk_bytes, size)) for start in starts]


def read_records(
    source: Path | FileSpan, on_bad: OnBad | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each record of a file or span. Rows count from 0 and leave out blank lines.

    A line or item that is not a record counts as a row and is reported to `on_bad`; without `on_bad` it raises
    RecordError. A damaged file raises RecordError, too.
    """
    span = source if isinstance(source, FileSpan) else FileSpan(str(source))
    path = Path(span.path)
    reading = Reading(span.path, on_bad or _raise_bad, max_line_bytes)
    try:
        with path.open("rb") as file:
            if span.end >= 0:
                lines = lines_of_span(file, span.start, span.end, max_line_bytes)
                yield from parse_lines(lines, reading, lambda line: None, span.start)
                return
            kind = kind_of(file.peek(HEAD_BYTES)[:HEAD_BYTES], str(path))
            if kind in ("parquet", "arrow"):
                yield from read_parquet(path) if kind == "parquet" else read_arrow(path)
            else:
                yield from _read_stream(file, str(path), reading)
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror or error}") from None
    except RecordError:
        raise
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not {error.encoding} text, or damaged: {error.reason}") from None
    except (*DAMAGED, tarfile.TarError, OverflowError) as error:
        raise RecordError(f"{path}: damaged or truncated: {error}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: {error}") from None


def place_of(span: FileSpan, row: int) -> str:
    """Return the place of a span's record as `file:line`, or as `file: record N` in a file without lines.

    `row` counts the records of the span from 0. The function reads the file again.
    """
    path = Path(span.path)
    with path.open("rb") as file:
        stream, kind = _decoded(file, str(path))
        if kind == "object" and stream is file and is_json_lines(file, _BLOCK_BYTES):
            kind = "lines"
            file.seek(0)
        if kind != "lines":
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


def _decoded(file: io.BufferedReader, name: str, depth: int = 0) -> tuple[io.BufferedReader, str]:
    """Return (stream, kind): a file's content without compression, in UTF-8 if it is text, and its kind (kinds.py)."""
    kind = kind_of(file.peek(HEAD_BYTES)[:HEAD_BYTES], name)
    if depth > _MAX_DEPTH:
        raise RecordError(f"{name}: archives are nested too deep; unpack the file first")
    if kind in COMPRESSED:
        inner = cast(io.BufferedReader, decompressed(file, kind))
        suffix = COMPRESSED[kind]
        return _decoded(inner, name[: -len(suffix)] if name.lower().endswith(suffix) else name, depth + 1)
    if kind == "utf-16":
        return _decoded(io.BufferedReader(_Utf8(file), _BLOCK_BYTES), name, depth + 1)
    return file, kind


def _read_stream(file: io.BufferedReader, name: str, reading: Reading, depth: int = 0) -> Iterator[tuple[int, Record]]:
    stream, kind = _decoded(file, name, depth)
    if kind in ("parquet", "arrow"):
        raise RecordError(f"{reading.name}: cannot read a {kind} file inside an archive; unpack it first")
    if kind == "tar":
        return _read_tar(stream, reading, depth + 1)
    if kind in ("csv", "tsv"):
        return read_csv(stream, kind, reading)
    read = {"list": read_list, "object": read_object, "lines": read_lines}[kind]
    return read(stream, reading)


def _read_tar(file: BinaryIO, reading: Reading, depth: int) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each record in the files of a tar archive. Rows count through all files.

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
            if not member.isreg() or member.issparse() or name.startswith(".") or not has_record_suffix(name):
                continue
            extracted = archive.extractfile(member)
            assert extracted is not None
            buffered: io.BufferedReader = io.BufferedReader(cast(io.RawIOBase, extracted), buffer_size=_BLOCK_BYTES)
            inner = reading._replace(name=f"{reading.name}/{member.name.lstrip('/')}", on_bad=on_bad)
            for _, record in _read_stream(buffered, inner.name, inner, depth + 1):
                yield row, record
                row += 1
    if row == 0:
        raise RecordError(f"{reading.name}: no .json or .jsonl file with records in the tar archive")


class _TarMember(tarfile.TarInfo):
    """Header of a tar member. Reading a damaged or missing header raises an error.

    The library treats such a header as the end of the archive.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from None


class _Utf8(io.RawIOBase):
    """A stream that converts a UTF-16 file to UTF-8 bytes.

    Without a byte order mark, the position of the first NUL byte shows the byte order.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        head = file.peek(2)[:2]
        encoding = "utf-16" if head in (b"\xff\xfe", b"\xfe\xff") else "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
        self._blocks = codecs.iterdecode(iter(partial(file.read, _BLOCK_BYTES), b""), encoding)
        self._output = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (data := self._output.read(len(buffer))):
            text = next(self._blocks, None)
            if text is None:
                return 0
            self._output = io.BytesIO(text.encode("utf-8", errors="surrogatepass"))
        buffer[: len(data)] = data
        return len(data)
