"""Read records from JSON objects that follow each other in one text, each on several lines (pretty-printed)."""

import json
import re
from collections.abc import Iterator

from pretokenizer.records.json_text import BYTE_ORDER_MARK, Reading, Record, RecordError

_BLANKS = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


def are_objects(text: bytes) -> bool:
    """Return whether a text begins with a JSON object of several lines, and more text follows the object."""
    try:
        decoded = text.removeprefix(BYTE_ORDER_MARK).decode("utf-8").strip()
        value, end = _decode(decoded)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "\n" in decoded[:end] and end < len(decoded)


def parse_objects(text: bytes, reading: Reading) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each object of a text for which `are_objects` is true.

    Raises RecordError with the line number if something else than an object follows, because nothing tells where the
    next object begins.
    """
    decoded = text.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    row, at = 0, _BLANKS.match(decoded).end()  # type: ignore[union-attr]
    while at < len(decoded):
        place = f"{reading.name}:{1 + decoded.count(chr(10), 0, at)}: object {row + 1}"
        try:
            value, end = _decode(decoded, at)
        except json.JSONDecodeError as error:
            raise RecordError(f"{place}: not valid JSON: {error.msg} in line {error.lineno}") from None
        except RecursionError:
            raise RecordError(f"{place}: not valid JSON: nested too deep") from None
        if not isinstance(value, dict):
            raise RecordError(f"{place}: expected a JSON object, found a {type(value).__name__}")
        yield row, value
        row, at = row + 1, _BLANKS.match(decoded, end).end()  # type: ignore[union-attr]
