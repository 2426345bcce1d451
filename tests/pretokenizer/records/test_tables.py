"""Parquet, Arrow, CSV and TSV tables give the same records as JSON lines."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pretokenizer.records.json_text import RecordError
from pretokenizer.records.reader import FileSpan, place_of, read_records, split_file

RECORDS = [{"a": i, "text": f"Zeile {i} é\n\u2028 {'x' * i}"} for i in range(20)]


def records(path: Path) -> list[Any]:
    return [record for _, record in read_records(path)]


def write_arrow(path: Path, rows: list[Any], is_file: bool = False) -> Path:
    """Write rows in two batches, as the `datasets` library does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    new = pyarrow.ipc.new_file if is_file else pyarrow.ipc.new_stream
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(rows) // 2))
    return path


def test_parquet_and_arrow(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "a.parquet", row_group_size=7)
    assert list(read_records(tmp_path / "a.parquet")) == list(enumerate(RECORDS))
    assert list(read_records(write_arrow(tmp_path / "stream.arrow", RECORDS))) == list(enumerate(RECORDS))
    assert list(read_records(write_arrow(tmp_path / "file.arrow", RECORDS, is_file=True))) == list(enumerate(RECORDS))
    assert split_file(tmp_path / "stream.arrow", 10) == [FileSpan(str(tmp_path / "stream.arrow"))]


def test_nulls_that_a_table_fills_into_tool_calls_are_removed(tmp_path: Path) -> None:
    def call(**arguments: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": arguments}}]}

    rows = [{"messages": [call(city="Oslo"), {"role": "user", "content": "q"}]}, {"messages": [call(unit="C")]}]
    found = records(write_arrow(tmp_path / "a.arrow", rows))
    assert found == [
        {"messages": [call(city="Oslo"), {"role": "user", "content": "q", "tool_calls": None}]},
        {"messages": [call(unit="C")]},
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'q,a\nHi,"Hel\r\nlo, ""you"""\n\n,\n'),
        ("a.csv", '\ufeffq;a\r\nHi;"Hel\r\nlo, ""you"""\r\n;\r\n'),
        ("A.TSV", 'q\ta\nHi\t"Hel\r\nlo, ""you"""\n\t'),
    ],
)
def test_csv(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert records(path) == [{"q": "Hi", "a": 'Hel\r\nlo, "you"'}, {"q": "", "a": ""}]
    assert place_of(FileSpan(str(path)), 1) == f"{path}: record 2"
    path.write_bytes(text.encode("utf-16"))
    assert records(path)[0] == {"q": "Hi", "a": 'Hel\r\nlo, "you"'}


def test_rows_with_other_fields_than_the_header_are_bad(tmp_path: Path) -> None:
    path, bad = tmp_path / "a.csv", []
    path.write_text("q,a\n1,2,3\n4\n5,6\n")
    found = list(read_records(path, lambda *what: bad.append(what)))
    assert found == [(2, {"q": "5", "a": "6"})]
    assert bad == [(0, f"{path}:2", "expected 2 fields, found 3"), (1, f"{path}:3", "expected 2 fields, found 1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q,q\n1,2\n", r"a\.csv: the header names a column twice: q, q"),
        ('q,a\n1,"2\n', r"a\.csv:2: not valid CSV: unexpected end of data"),
        ('q,a\n1,"2"3\n', r"a\.csv:2: not valid CSV: ',' expected after '\"'"),
    ],
)
def test_broken_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(RecordError, match=message):
        records(tmp_path / "a.csv")


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(RecordError, match=r"a\.parquet: not a readable parquet file"):
        records(tmp_path / "a.parquet")
    whole = write_arrow(tmp_path / "a.arrow", RECORDS).read_bytes()
    (tmp_path / "a.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match=r"a\.arrow: not a readable Arrow file"):
        records(tmp_path / "a.arrow")


def test_a_flipped_bit_in_a_parquet_page_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(RECORDS), path, write_page_checksum=True, compression="none", use_dictionary=False
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"Zeile 7")] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"a\.parquet: not a readable parquet file"):
        records(path)
