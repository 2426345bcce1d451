"""Read records from tables: parquet, Arrow, CSV and TSV."""

import csv
import io
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from pretokenizer.records.json_text import Reading, Record, RecordError

_ROWS = 1024
"""Number of rows of a parquet or Arrow file that are converted to records at a time."""
_TOOL_KEYS = frozenset(("tools", "functions", "tool_calls", "function_call"))


def read_parquet(path: Path) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each row of a parquet file. Raises RecordError for a damaged file."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            yield from _rows(file.schema_arrow, file.iter_batches(batch_size=_ROWS))
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise RecordError(f"{path}: not a readable parquet file: {error}") from None


def read_arrow(path: Path) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each row of an Arrow stream or file. Raises RecordError for a damaged file."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            yield from _rows(reader.schema, batches)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise RecordError(f"{path}: not a readable Arrow file: {error}") from None


def _rows(schema: Any, batches: Iterable[Any]) -> Iterator[tuple[int, Record]]:
    has_tools = any(key in str(schema) for key in _TOOL_KEYS)
    row = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            for record in batch.slice(start, _ROWS).to_pylist():
                yield row, _without_filled_nulls(record) if has_tools else record
                row += 1


def _without_filled_nulls(value: Any, is_inside_tool: bool = False) -> Any:
    """Return a copy of a record without the nulls inside tool calls and tool schemas.

    A table has such a null for each key that only other rows use. `is_inside_tool` says whether `value` is part of a
    tool call or schema.
    """
    if isinstance(value, dict):
        return {
            key: _without_filled_nulls(item, is_inside_tool or key in _TOOL_KEYS)
            for key, item in value.items()
            if not (is_inside_tool and item is None)
        }
    if isinstance(value, list):
        return [_without_filled_nulls(item, is_inside_tool) for item in value]
    return value


def read_csv(file: BinaryIO, kind: str, reading: Reading) -> Iterator[tuple[int, Record]]:
    """Return (row, record) for each row of a CSV or TSV text whose first row names the columns.

    A CSV file may use commas, semicolons or tabs. A row with more or fewer fields than the header is a bad record.
    Raises RecordError for a header that names a column twice, and for broken quotes.
    """
    csv.field_size_limit(reading.max_line_bytes)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    first = text.readline(reading.max_line_bytes)
    delimiter = "\t" if kind == "tsv" else max(",;\t", key=first.count)
    lines = iter(partial(text.readline, reading.max_line_bytes), "")
    rows = csv.reader(chain((first,), lines), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise RecordError(f"{reading.name}: the header names a column twice: {', '.join(header)[:200]}")
        row = 0
        for fields in rows:
            if len(fields) == len(header):
                yield row, dict(zip(header, fields, strict=True))
            elif fields:
                problem = f"expected {len(header)} fields, found {len(fields)}"
                reading.on_bad(row, f"{reading.name}:{rows.line_num}", problem)
            else:
                continue  # a blank line
            row += 1
    except csv.Error as error:
        raise RecordError(f"{reading.name}:{rows.line_num}: not valid CSV: {error}") from None
