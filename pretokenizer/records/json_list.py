"""Read records from a JSON list of any size; one item is in memory at a time.

`ijson` is faster but not used: it silently replaces half a surrogate pair by `?`, and 100,000 opening brackets make it
fill the memory.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pretokenizer.records.json_text import Reading, Record, RecordError

_BLANKS = " \t\r\n"
_SEPARATOR = re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
_END = "\0"
"""Character appended to the text of a file, to distinguish the end of the file from the end of the window."""
_decode = json.JSONDecoder().raw_decode


def parse_list(blocks: Iterable[bytes], reading: Reading) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each item of a JSON list that is a record; other items are reported to `reading.on_bad`.

    `blocks` are the bytes of the list. Raises RecordError for text that is not a JSON list.
    """
    text = chain(codecs.iterdecode(iter(blocks), "utf-8-sig"), (_END,))
    for row, item in enumerate(_items(text, reading)):
        if isinstance(item, dict):
            yield row, item
        else:
            problem = f"expected a JSON object, found a {type(item).__name__}"
            reading.on_bad(row, f"{reading.name}: item {row + 1}", problem)


def _items(blocks: Iterator[str], reading: Reading) -> Iterator[Any]:
    """Yield the items of a JSON list, decoded from a window over its text, which starts with `[` and ends with _END.

    If the window ends within an item or within the blanks after it, the window grows and the item is decoded again.
    """
    window = next(stripped for block in blocks if (stripped := block.lstrip(_BLANKS)))
    position = number = 1
    while True:
        try:
            item, end = _decode(window, position)
            separator = _SEPARATOR.match(window, end)
            if separator and separator.end() < len(window):
                yield item
                position = separator.end()
                if separator[1] == "]":
                    break
                number += 1
                continue
            problem = "expected `,` or `]` after it"
        except json.JSONDecodeError as error:
            if number == 1 and window.startswith("]", position):
                position += 1
                break
            problem = error.msg
        window, position, has_grown = window[position:], 0, False
        if len(window) > reading.max_line_bytes:
            problem += f", or the item has more than {reading.limit}"
        else:
            window, has_grown = _grow(window, blocks)
        if not has_grown:
            raise RecordError(f"{reading.name}: item {number}: not valid JSON: {problem}")
    for block in chain((window[position:],), blocks):
        if block.strip(_BLANKS) not in ("", _END):
            raise RecordError(f"{reading.name}: not valid JSON: more text follows after the end of the list")


def _grow(window: str, blocks: Iterator[str]) -> tuple[str, bool]:
    """Return `window` extended to about twice its length, without leading blanks, and whether text was added."""
    parts, size = [window], 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size > len(window):
            break
    return "".join(parts).lstrip(_BLANKS), size > 0
