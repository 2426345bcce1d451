"""JSON lists of any size give the same records, and the same errors, wherever the blocks of the file end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretokenizer.records.json_list import parse_list
from pretokenizer.records.json_text import Reading, RecordError
from pretokenizer.records.reader import read_records

RECORDS = [{"a": i, "text": f"Zeile {i} é\u2028 {'x' * i}", "nested": [{"b": [1, "]},{"]}]} for i in range(20)]
TEXT = json.dumps(RECORDS, indent=1, ensure_ascii=False).encode()


def blocks_of(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def items(data: bytes, size: int, max_bytes: int = 1 << 20) -> list[Any]:
    """Return the rows of a JSON list read in blocks of `size` bytes. A bad item is (row, place, problem)."""
    bad: list[Any] = []
    reading = Reading("a.json", lambda *what: bad.append(what), max_bytes)
    return [*parse_list(blocks_of(data, size), reading), *bad]


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_items_do_not_depend_on_the_blocks(size: int) -> None:
    assert items(TEXT, size) == list(enumerate(RECORDS))
    assert items(b"\xef\xbb\xbf" + TEXT, size) == list(enumerate(RECORDS))
    assert items(b" \n [ \n\t ] \n", size) == []
    assert items(b'[{"a": 1}\r\n,{"a": 12} ]\n\n', size) == [(0, {"a": 1}), (1, {"a": 12})]
    assert items(b'[{"a": NaN}, 12, {"b": 1e400}]', size)[1:] == [
        (2, {"b": float("inf")}),
        (1, "a.json: item 2", "expected a JSON object, found a int"),
    ]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1} {"a": 2}]', "item 1: not valid JSON: expected `,` or `]` after it"),
        ('[{"a": 1},, {"a": 2}]', "item 2: not valid JSON: Expecting value"),
        ('[, {"a": 1}]', "item 1: not valid JSON: Expecting value"),
        ('[{"a": 1}, {"a": 2},]', "item 3: not valid JSON: Expecting value"),
        ('[{"a": 1}, {"a": 2}] x', "not valid JSON: more text follows after the end of the list"),
        ('[{"a": 1}, {"a": 2}]' + " " * 5000 + "]", "not valid JSON: more text follows after the end of the list"),
        ('[{"a": 1}, {"a": 2}', "item 2: not valid JSON: expected `,` or `]` after it"),
        ('[{"a": 1}, {"a": ', "item 2: not valid JSON: Expecting value"),
        ("[", "item 1: not valid JSON: Expecting value"),
    ],
)
def test_errors_do_not_depend_on_the_blocks(text: str, message: str, size: int) -> None:
    with pytest.raises(RecordError) as error:
        items(text.encode(), size)
    assert str(error.value) == f"a.json: {message}"


def test_an_item_beyond_the_limit_is_an_error() -> None:
    text = json.dumps([{"a": 1}, {"a": "x" * 5000}]).encode()
    assert len(items(text, 100)) == 2
    with pytest.raises(RecordError, match=r"item 2: .*, or the item has more than 0\.00\d+ MiB \(--max_line_mb\)"):
        items(text, 100, max_bytes=1000)


def test_deep_nesting_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(RecordError, match=r"a\.json: .*recursion"):
        list(read_records(tmp_path / "a.json"))
