"""Records from JSON text: one a line, or a list of them. Nothing larger than one record is held, a list apart."""

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

fast_loads: Callable[[bytes], Any]
try:
    from orjson import loads as fast_loads
except ImportError:
    fast_loads = json.loads

Record = dict[str, Any]
_LIST_IN_MEMORY_BYTES = 256 << 20
MAX_LINE_BYTES = 64 << 20
OnBad = Callable[[int, str, str], None]
"""Gets (row, `file:line`, what is wrong) of a line or item that is no record."""


class RecordError(ValueError):
    """A record that cannot be read; the message names file and line (or row)."""


class Reading(NamedTuple):
    """What is the same for all of a file."""

    name: str
    """Of the file, for messages."""
    on_bad: OnBad
    max_line_bytes: int


def parse_text(file: io.BufferedReader, reading: Reading) -> Iterator[tuple[int, Record]]:
    head = file.peek(512)[:512]
    if starts_list(head):
        yield from _parse_list(file, reading)
    else:
        lines = iter(partial(file.readline, reading.max_line_bytes + 1), b"")
        yield from parse_lines(lines, reading, partial(_skip_line, file))


def starts_list(head: bytes) -> bool:
    """Whether the text begins with `[` (a byte order mark apart)."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def lines_of_span(file: BinaryIO, start: int, end: int, max_bytes: int = -2) -> Iterator[bytes]:
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


def beginnings(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
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


def parse_lines(
    lines: Iterator[bytes], reading: Reading, skip_rest: Callable[[bytes], object], span_start: int = 0
) -> Iterator[tuple[int, Record]]:
    row = 0
    for number, line in enumerate(lines, 1):
        if len(line) > reading.max_line_bytes:
            skip_rest(line)
            problem = f"a line of more than {reading.max_line_bytes / (1 << 20):g} MiB (--max_line_mb)"
            reading.on_bad(row, line_name(reading.name, span_start, number), problem)
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
            reading.on_bad(row, line_name(reading.name, span_start, number), problem)
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


def line_name(name: str, span_start: int, number: int) -> str:
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


def _parse_list(file: io.BufferedReader, reading: Reading) -> Iterator[tuple[int, Record]]:
    head = file.read(_LIST_IN_MEMORY_BYTES)
    rest = file.peek(1)
    if not rest and _starts_with_a_line(head):
        yield from parse_lines(iter(io.BytesIO(head).readline, b""), reading, lambda line: None)
        return
    items = _parse_large_list(head, file, reading) if rest else iter(_load_list(head, reading.name))
    for row, record in enumerate(items):
        if isinstance(record, dict):
            yield row, record
        else:
            found = type(record).__name__
            reading.on_bad(row, f"{reading.name}: item {row + 1}", f"expected a JSON object, found a {found}")


def _starts_with_a_line(text: bytes) -> bool:
    """Whether what begins like a list is JSON lines of which the first is a list: no record, but others may follow."""
    first, _, others = text.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    try:
        fast_loads(first)
    except (ValueError, RecursionError):
        return False
    return bool(others.strip())


def _load_list(text: bytes, name: str) -> list[Any]:
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        return cast(list[Any], fast_loads(text))
    except (ValueError, RecursionError):
        try:
            return cast(list[Any], json.loads(text))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{name}: not valid JSON: {error}") from None


def _parse_large_list(head: bytes, file: io.BufferedReader, reading: Reading) -> Iterator[Any]:
    """Items of a JSON list too large to hold, decoded one after another from a sliding window."""
    text = io.TextIOWrapper(io.BufferedReader(_Chained(head, file)), encoding="utf-8-sig")
    window, position, number = text.read(1 << 22).lstrip()[1:], 0, 0
    while True:
        place = f"{reading.name}: item {number + 1}"
        try:
            items, end = _decode_item(window, position, number == 0)
        except json.JSONDecodeError as error:
            left = len(window) - position
            more = text.read(max(1 << 22, left)) if left <= reading.max_line_bytes else ""
            if not more:
                raise RecordError(f"{place}: not valid JSON: {error.msg}") from None
            window, position = window[position:] + more, 0
            continue
        yield from items
        if window[end] == "]":
            _demand_blanks(window[end + 1 :], text, place)
            return
        number, position = number + 1, end + 1


_BLANKS = " \t\r\n"
_decoder = json.JSONDecoder()


def _decode_item(window: str, position: int, is_first: bool) -> tuple[list[Any], int]:
    """(the item from `position` on, or none of an empty list; place of the comma or bracket after it).

    Raises JSONDecodeError, also where what follows is not in the window yet: 12 may be the beginning of 123.
    """
    position = _blanks_end(window, position)
    if is_first and window[position : position + 1] == "]":
        return [], position
    item, end = _decoder.raw_decode(window, position)
    end = _blanks_end(window, end)
    if end == len(window):
        raise json.JSONDecodeError("the list does not end", window, end)
    if window[end] not in ",]":
        raise json.JSONDecodeError("expected a comma or ] after it", window, end)
    return [item], end


def _blanks_end(window: str, position: int) -> int:
    while position < len(window) and window[position] in _BLANKS:
        position += 1
    return position


def _demand_blanks(rest: str, text: io.TextIOWrapper, place: str) -> None:
    """Read to the end of the file. Raises RecordError when anything but blanks is left."""
    while rest or (rest := text.read(1 << 22)):
        if rest.strip(_BLANKS):
            raise RecordError(f"{place}: not valid JSON: more follows after the end of the list")
        rest = ""


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
