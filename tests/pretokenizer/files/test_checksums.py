"""finished_files.py"""

from pathlib import Path

import pytest

from pretokenizer.files.checksums import FinishedFiles

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_records_of_files_added_and_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with FinishedFiles(threads=2) as finished:
        finished.add(tmp_path / "gone")
        with pytest.raises(FileNotFoundError, match="gone"):
            finished.record(tmp_path / "gone")
