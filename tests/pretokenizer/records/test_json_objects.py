"""JSON objects of several lines, one after another, are read as records."""

import json
from pathlib import Path

import pytest

from pretokenizer.records.json_text import RecordError
from pretokenizer.records.reader import read_records

RECORDS = [{"text": f"Zeile {i} \u2028 }} {{", "nested": [{"b": [1]}]} for i in range(3)]
TEXT = "\n".join(json.dumps(record, indent=2, ensure_ascii=False) for record in RECORDS)


def records_of(path: Path, text: str) -> list[object]:
    path.write_text(text, encoding="utf-8")
    bad: list[object] = []
    return [*read_records(path, lambda *what: bad.append(what)), *bad]


def test_pretty_printed_objects_are_records(tmp_path: Path) -> None:
    expected = list(enumerate(RECORDS))
    assert records_of(tmp_path / "a.json", TEXT) == expected
    assert records_of(tmp_path / "b.json", f"\ufeff\n{TEXT}\r\n\n") == expected
    assert records_of(tmp_path / "c.json", TEXT.replace("}\n{", "}{")) == expected


def test_what_follows_an_object_must_be_one(tmp_path: Path) -> None:
    for rest, problem in (("[1]", "expected a JSON object, found a list"), ("{'a': 1}", "not valid JSON: Expecting")):
        with pytest.raises(RecordError, match=rf"a\.json:31: object 4: {problem}"):
            records_of(tmp_path / "a.json", f"{TEXT}\n{rest}\n")


def test_broken_json_lines_stay_json_lines(tmp_path: Path) -> None:
    found = records_of(tmp_path / "a.jsonl", '{"a": 1} x\n{"a": 2}\n')
    assert found[0] == (1, {"a": 2}) and len(found) == 2
