"""Every kind of file gives the same records, and an error names a damaged file."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pretokenizer.records import json_text
from pretokenizer.records.json_text import RecordError
from pretokenizer.records.reader import FileSpan, place_of, read_records, split_file

RECORDS = [{"a": i, "text": f"Zeile {i} é\n\u2028 {'x' * i}"} for i in range(20)]
LINES = "".join(json.dumps(record, ensure_ascii=bool(i % 2)) + "\n" for i, record in enumerate(RECORDS)).encode()


def rows(path: Path) -> list[tuple[int, object]]:
    return list(read_records(path))


def tar_of(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in (("docs/README.md", b"no records"), (name, data)):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


CONTENTS = {
    "plain.jsonl": LINES,
    "no_last_newline.jsonl": LINES.rstrip(b"\n"),
    "crlf_and_blank.jsonl": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n"),
    "list.json": json.dumps(RECORDS, indent=1).encode(),
    "list_with_bom.json": b"\xef\xbb\xbf" + json.dumps(RECORDS).encode(),
    "lines.jsonl.gz": gzip.compress(LINES),
    "two_members.jsonl.gz": gzip.compress(LINES[:100]) + gzip.compress(LINES[100:]),
    "lines.jsonl.zst": zstandard.compress(LINES),
    "two_frames.jsonl.zst": zstandard.compress(LINES[:100]) + zstandard.compress(LINES[100:]),
    "lines.jsonl.xz": lzma.compress(LINES),
    "lines.ndjson.bz2": bz2.compress(LINES[:100]) + bz2.compress(LINES[100:]),
    "utf_16.jsonl": LINES.decode().encode("utf-16"),
    "utf_16_without_mark.json": json.dumps(RECORDS).encode("utf-16-be"),
    "lines_in.json": LINES,
    "object.json": json.dumps({"version": 1, "data": RECORDS}, indent=1).encode(),
    "object_in_a_line.json.gz": gzip.compress(json.dumps({"train": RECORDS}).encode() + b"\n"),
    "skippable_frame.jsonl.zst": b"\x55\x2a\x4d\x18\x03\x00\x00\x00abc" + zstandard.compress(LINES),
    "mislabelled.tar.gz": gzip.compress(LINES),
    "real.tar.gz": gzip.compress(tar_of("export/trees.jsonl", LINES)),
    "real.tar": tar_of("trees.json", json.dumps(RECORDS).encode()),
    "real.tar.xz": lzma.compress(tar_of("trees.ndjson", LINES)),
    "gz_in_tar.tar": tar_of("trees.jsonl.gz", gzip.compress(LINES)),
}


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_every_kind_gives_the_same_records(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CONTENTS[name])
    assert rows(tmp_path / name) == list(enumerate(RECORDS))


def test_one_object_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORDS[0], indent=1))
    assert rows(tmp_path / "a.json") == [(0, RECORDS[0])]
    (tmp_path / "a.json").write_text('{"data": []}\n')
    assert rows(tmp_path / "a.json") == [(0, {"data": []})]
    (tmp_path / "a.json").write_text('{"train": [{"a": 1}], "test": [{"a": 2}]}')
    with pytest.raises(RecordError, match=r"a\.json: holds several lists \(train, test\)"):
        rows(tmp_path / "a.json")
    bad: list[Any] = []
    (tmp_path / "a.json").write_text('{"a": \n{"a": 2}\n')
    assert list(read_records(tmp_path / "a.json", lambda *what: bad.append(what))) == [(1, {"a": 2})]
    assert bad == [(0, f"{tmp_path / 'a.json'}:1", "not valid JSON: Expecting value")]


def test_python_json_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "fast_loads", json.loads)
    for name in ("plain.jsonl", "crlf_and_blank.jsonl", "list.json"):
        (tmp_path / name).write_bytes(CONTENTS[name])
        assert rows(tmp_path / name) == list(enumerate(RECORDS)), name


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 333, 10_000])
def test_spans_together_give_each_line_once(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    spans = split_file(path, chunk)
    assert [record for span in spans for _, record in read_records(span)] == RECORDS
    assert len(spans) == (1 if chunk == 10_000 else -(-len(LINES) // chunk))


def test_files_that_cannot_be_cut_are_one_span(tmp_path: Path) -> None:
    for name in ("list.json", "lines.jsonl.gz"):
        (tmp_path / name).write_bytes(CONTENTS[name])
        assert split_file(tmp_path / name, 10) == [FileSpan(str(tmp_path / name))]


@pytest.mark.parametrize("end", [-1, 10_000])
def test_a_line_is_one_row_however_long(tmp_path: Path, end: int) -> None:
    path, bad = tmp_path / "a.jsonl", []
    path.write_bytes(b'{"a": 1}' + b" " * 5000 + b'{"b": 2}\n{"c": 3}\n\nbroken\n')
    span = FileSpan(str(path), 0, end)
    found = list(read_records(span, lambda row, place, reason: bad.append((row, place)), max_line_bytes=1000))
    assert found == [(1, {"c": 3})] and bad == [(0, f"{path}:1"), (2, f"{path}:4")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_the_place_after_a_long_line(tmp_path: Path, name: str) -> None:
    data = b"x" * 3_000_000 + b"\n\n" + LINES
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert place_of(FileSpan(str(tmp_path / name)), 3) == f"{tmp_path / name}:5"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n', r"a\.jsonl:3: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n7\n', r"a\.jsonl:2: expected a JSON object, found a int"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json: item 2: expected a JSON object, found a int"),
        ("a.json", b'[{"a": 1}', r"a\.json: item 1: not valid JSON"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:60], r"a\.jsonl\.gz: damaged or truncated"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:200] + b"\0" * 40, r"a\.jsonl\.gz: "),
        ("a.jsonl.zst", zstandard.compress(LINES)[:-9], r"a\.jsonl\.zst: damaged or truncated"),
        ("a.jsonl.zst", zstandard.compress(LINES)[:40] + b"\xff" * 200, r"a\.jsonl\.zst: "),
        ("a.jsonl.xz", lzma.compress(LINES)[:-9], r"a\.jsonl\.xz: damaged or truncated"),
        ("a.jsonl.bz2", bz2.compress(LINES)[:-9], r"a\.jsonl\.bz2: damaged or truncated"),
        ("a.jsonl", LINES.decode().encode("utf-16")[:-1], r"a\.jsonl: not utf-16.* text, or damaged"),
        ("a.csv", "Größe\n1\n".encode("latin-1"), r"a\.csv: not utf-8 text, or damaged"),
        ("a.jsonl", '{"a": "é"}\n'.encode("latin-1"), r"a\.jsonl:1: not UTF-8 text at byte 8 of the line"),
        ("a.jsonl", LINES.decode().encode("utf-32"), r"a\.jsonl: UTF-32 text; save it as UTF-8"),
        (
            "a.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid x\n",
            r"a\.jsonl: a Git LFS pointer .*git lfs pull",
        ),
        ("a.json", b"<!DOCTYPE html><p>404", r"a\.json: an HTML page, so the download failed"),
        ("a.csv", b"PK\x03\x04....", r"a\.csv: a zip archive or an Excel sheet"),
        ("a.jsonl", b"\x80\x04\x95.", r"a\.jsonl: a Python pickle"),
        ("a.tar", tar_of("a.jsonl", LINES)[:2048], r"a\.tar: damaged or truncated"),
        ("a.tar", tar_of("a.jsonl", LINES)[:1024], r"a\.tar: damaged or truncated: empty header at byte 1024"),
        ("a.tar", flipped(tar_of("a.jsonl", LINES), 1024 + 100), r"a\.tar: damaged or truncated: bad checksum at byte"),
        ("a.tar", tar_of("a.json", b"{}")[:2048] + flipped(tar_of("b.json", LINES), 100), "bad checksum at byte 2048"),
        ("a.tar", tar_of("a.parquet", b"PAR1"), r"a\.tar/a\.parquet: cannot read a parquet file inside an archive"),
        ("a.tar", tar_of("a.txt", b"x"), r"a\.tar: no \.json or \.jsonl file with records in the tar archive"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=message):
        rows(tmp_path / name)


def test_line_number_in_a_later_span(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES + b"broken\n")
    for chunk in (50, 64, 333):
        spans = split_file(path, chunk)
        with pytest.raises(RecordError, match=r"a\.jsonl:21: not valid JSON"):
            for span in spans:
                list(read_records(span))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"x\.jsonl: cannot read: No such file"):
        rows(tmp_path / "x.jsonl")


def test_numbers_that_only_python_reads(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"score": NaN, "a": "x"}\n')
    assert rows(tmp_path / "a.jsonl")[0][1]["a"] == "x"  # type: ignore[index]


def test_json_lines_of_which_the_first_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'[1, 2]\n{"a": 1}\n\n[]\n{"a": 2}\n')
    bad: list[tuple[int, str, str]] = []
    assert list(read_records(path, lambda *what: bad.append(what))) == [(1, {"a": 1}), (3, {"a": 2})]
    reason = "expected a JSON object, found a list"
    assert bad == [(0, f"{path}:1", reason), (2, f"{path}:4", reason)]
    path.write_bytes(b'[{"a": 1}]\n \n')
    assert list(read_records(path)) == [(0, {"a": 1})]
