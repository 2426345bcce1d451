"""Read records from JSON text: lines, a list, or one object."""

import io
import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any, BinaryIO

from pretokenizer.records.json_list import parse_list
from pretokenizer.records.json_objects import are_objects, parse_objects
from pretokenizer.records.json_text import (
    BYTE_ORDER_MARK,
    Reading,
    Record,
    RecordError,
    fast_loads,
    parse_lines,
    skip_line,
)

_BLOCK_BYTES = 1 << 22
_MAX_OBJECT_BYTES = 256 << 20
"""Maximum size of a file that is one JSON object, because the whole file is held in memory."""
_CONTAINERS = ("data", "train", "examples", "instances")
"""Keys under which a file that is one JSON object may hold its list of records."""
_LISTS = (*_CONTAINERS, "test", "valid", "validation", "val", "dev", "eval")
"""Keys that may hold a list of records. One file may have only one of them."""


def read_lines(file: io.BufferedReader, reading: Reading) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each line of a JSON-lines file that is a record.

    Other lines are reported to `reading.on_bad`.
    """
    return parse_lines(_lines(file, reading), reading, partial(skip_line, file))


def read_list(file: io.BufferedReader, reading: Reading) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each record of a text that begins with `[`.

    The text is a JSON list, or JSON lines whose first line is a list by itself.
    """
    lines = _lines(file, reading)
    start = [next(lines)]
    if start[0].endswith(b"\n") and is_json(start[0]):
        for line in lines:
            start.append(line)
            if not line.isspace():
                break
    if len(start) == 1 or start[-1].isspace():
        yield from parse_list(chain(start, iter(partial(file.read, _BLOCK_BYTES), b"")), reading)
    else:
        yield from parse_lines(chain(start, lines), reading, partial(skip_line, file))


def read_object(file: io.BufferedReader, reading: Reading) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each record of a text that begins with `{`.

    The text is JSON lines, a single record, records of several lines one after another, or one object that holds the
    records, such as `{"data": [...]}`. Raises RecordError for one object that is too large to hold in memory, or that
    holds several lists of records.
    """
    start = [file.readline(reading.max_line_bytes + 1)]
    if start[0].endswith(b"\n") and is_json(start[0]) and file.peek(1).strip():
        yield from parse_lines(chain(start, _lines(file, reading)), reading, partial(skip_line, file))
        return
    start.append(file.read(_MAX_OBJECT_BYTES))
    start.append(file.readline())
    text = b"".join(start)
    value = _parse(text)
    if isinstance(value, dict):
        lists = [key for key in _LISTS if _is_list_of_objects(value.get(key))]
        if len(lists) > 1:
            raise RecordError(f"{reading.name}: holds several lists ({', '.join(lists)}); write each to its own file")
        yield from enumerate(value[lists[0]] if lists and lists[0] in _CONTAINERS else [value])
    elif file.peek(1) and not start[0].rstrip().endswith(b"}"):
        raise RecordError(
            f"{reading.name}: not JSON lines, and one object of more than {_MAX_OBJECT_BYTES >> 20} MiB cannot be read;"
            " write one record a line"
        )
    elif not file.peek(1) and are_objects(text):
        yield from parse_objects(text, reading)
    else:
        lines = io.BytesIO(text).readlines()
        yield from parse_lines(chain(lines, _lines(file, reading)), reading, partial(skip_line, file))


def is_json(text: bytes) -> bool:
    """Return whether `text` is one complete JSON value."""
    try:
        fast_loads(text.removeprefix(BYTE_ORDER_MARK))
    except (ValueError, RecursionError):
        return False
    return True


def is_json_lines(file: BinaryIO, max_line_bytes: int) -> bool:
    """Return whether a text that begins with `{` is JSON lines: the first line is an object and another follows."""
    first = file.readline(max_line_bytes)
    return first.endswith(b"\n") and is_json(first) and bool(file.read(512).strip())


def _lines(file: BinaryIO, reading: Reading) -> Iterator[bytes]:
    return iter(partial(file.readline, reading.max_line_bytes + 1), b"")


def _parse(text: bytes) -> Any:
    """Return the value of a JSON text, or None if the text is not JSON."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    try:
        return fast_loads(text)
    except (ValueError, RecursionError):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
