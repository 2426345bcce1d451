import subprocess
from pathlib import Path

import pytest

from pretokenizer.files.checksums import FinishedFiles, sha256_file, verify_sha256sums, write_sha256sums

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_finished_files_are_hashed_and_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr("pretokenizer.files.checksums.fsync_path", flushed.append)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"abc")
    with FinishedFiles(threads=1) as finished:
        finished.add(paths[0])
        finished.add(paths[0])
        records = [finished.record(path) for path in paths]
    assert [(record.bytes, record.sha256) for record in records] == [(3, ABC), (3, ABC)]
    assert flushed == paths


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with FinishedFiles(threads=2) as finished:
        finished.add(tmp_path / "gone")
        with pytest.raises(FileNotFoundError, match="gone"):
            finished.record(tmp_path / "gone")


def test_sha256_file_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == ABC


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
