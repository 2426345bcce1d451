"""Read records from JSON lines, and define what the readers of all kinds of files share.

A line that is not a record is reported to a callback and counts as a row, so that one bad line does not end a build.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

fast_loads: Callable[[bytes], Any]
try:
    from orjson import loads as fast_loads
except ImportError:  # no wheel for this platform
    fast_loads = json.loads

Record = dict[str, Any]
MAX_LINE_BYTES = 64 << 20
"""Default maximum length of a line in bytes, which bounds the memory of a reader."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OnBad = Callable[[int, str, str], None]
"""Callback for a line or item that is not a record. Its arguments are (row, `file:line`, problem)."""


class RecordError(ValueError):
    """A file or a record cannot be read. The message names the file and, for a record, the line or row."""


class Reading(NamedTuple):
    """Settings for reading the records of one file."""

    name: str
    """The file's name, as messages show it."""
    on_bad: OnBad
    """Called for each line or item that is not a record."""
    max_line_bytes: int

    @property
    def limit(self) -> str:
        """The maximum line length as messages show it, e.g. `64 MiB (--max_line_mb)`."""
        return f"{self.max_line_bytes / (1 << 20):g} MiB (--max_line_mb)"


def starts_list(head: bytes) -> bool:
    """Return whether a text begins with `[`, possibly after a byte order mark and blanks. `head` is its start."""
    return head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"["


def lines_of_span(file: BinaryIO, start: int, end: int, max_bytes: int = -2) -> Iterator[bytes]:
    """Return the lines of a file that begin in bytes [start, end). The last line may extend beyond `end`.

    A line longer than `max_bytes` is cut to `max_bytes` + 1 bytes. By default no line is cut.
    """
    position = start
    if start > 0:
        file.seek(start - 1)
        position = start - 1 + skip_line(file, b"")
    file.seek(position)
    while position < end:
        line = file.readline(max_bytes + 1)
        if not line:
            return
        position += len(line)
        if 0 <= max_bytes < len(line):
            position += skip_line(file, line)
        yield line


def beginnings(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Return the first `max_bytes` bytes of each line of a file."""
    while line := file.readline(max_bytes):
        yield line
        skip_line(file, line)


def skip_line(file: BinaryIO, line: bytes) -> int:
    """Skip the rest of a line whose beginning, `line`, has been read. Return the number of bytes skipped."""
    skipped = 0
    while not line.endswith(b"\n") and (line := file.readline(1 << 20)):
        skipped += len(line)
    return skipped


def parse_lines(
    lines: Iterator[bytes], reading: Reading, skip_rest: Callable[[bytes], object], span_start: int = 0
) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each line that is a record; other lines are reported to `reading.on_bad`.

    Rows count from 0 and leave out blank lines. `skip_rest` gets the beginning of a line that is too long and skips the
    rest. `span_start` is the offset in the file at which `lines` begin.
    """
    row = 0
    for number, line in enumerate(lines, 1):
        if len(line) > reading.max_line_bytes:
            skip_rest(line)
            reading.on_bad(row, line_name(reading.name, span_start, number), f"a line of more than {reading.limit}")
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
            stripped = line.removeprefix(BYTE_ORDER_MARK).strip()
            if not stripped:
                continue
            record, problem = _slow_loads(stripped)
        if problem:
            reading.on_bad(row, line_name(reading.name, span_start, number), problem)
        else:
            yield row, record
        row += 1


def _slow_loads(text: bytes) -> tuple[Any, str]:
    """Parse a line that orjson refuses but Python may accept, such as one with NaN or a huge number.

    Return (value, problem). The problem is "" if the value is a record.
    """
    try:
        record = json.loads(text)
    except RecursionError:
        return None, "not valid JSON: nested too deep"
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 text at byte {error.start + 1} of the line; save the file as UTF-8"
    except ValueError as error:
        return None, f"not valid JSON: {str(error).split(': line ')[0]}"
    return record, "" if isinstance(record, dict) else f"expected a JSON object, found a {type(record).__name__}"


def line_name(name: str, span_start: int, number: int) -> str:
    """Return `file:line` for line `number`, counted from 1, of a span that begins at byte `span_start` of the file.

    The function reads the file up to the span to count the lines before it.
    """
    if span_start:
        with Path(name).open("rb") as file:
            before, remaining = 0, span_start
            while remaining > 0 and (block := file.read(min(remaining, 1 << 20))):
                before += block.count(b"\n")
                remaining -= len(block)
            number += before + (0 if block.endswith(b"\n") else 1)
    return f"{name}:{number}"
