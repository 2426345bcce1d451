"""publish.py"""

import subprocess
from pathlib import Path

import pytest

from pretokenizer.files.checksums import sha256_file, verify_sha256sums, write_sha256sums
from pretokenizer.files.publish import publish_folder, write_json_atomic, write_text_atomic


def test_sha256_file_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_text_leaves_nothing_else(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "one\n")
    write_text_atomic(tmp_path / "a.txt", "zwei ü\n")
    assert (tmp_path / "a.txt").read_bytes() == "zwei ü\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(tmp_path / "a.txt", "half \ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_write_json_keeps_key_order(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'


def test_publish_refuses_an_existing_folder(tmp_path: Path) -> None:
    for name in ("staging", "final"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match="final exists already"):
        publish_folder(tmp_path / "staging", tmp_path / "final")
    (tmp_path / "final").rmdir()
    (tmp_path / "staging" / "x").write_text("x")
    publish_folder(tmp_path / "staging", tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "x"
    assert not (tmp_path / "staging").exists()


def test_sums_are_those_of_sha256sum_and_name_every_problem(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_text("a")
    (tmp_path / "sub" / "b").write_text("b")
    write_sha256sums(tmp_path)
    assert verify_sha256sums(tmp_path) == []
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert checked.stdout == "a: OK\nsub/b: OK\n"
    (tmp_path / "a").write_text("A")
    (tmp_path / "sub" / "b").unlink()
    (tmp_path / "c").write_text("c")
    assert verify_sha256sums(tmp_path) == [
        f"{tmp_path}/a: contents differ from SHA256SUMS",
        f"{tmp_path}/sub/b: missing",
        f"{tmp_path}/c: not listed in SHA256SUMS",
    ]


def test_folder_without_sums_is_a_problem(tmp_path: Path) -> None:
    assert verify_sha256sums(tmp_path) == [f"{tmp_path}/SHA256SUMS: missing, so the folder cannot be verified"]
