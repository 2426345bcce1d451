"""Bytes at any offset."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_convert.new_file import NewFile


def test_new_file_appends_aligns_and_writes_at(tmp_path: Path) -> None:
    file = NewFile(tmp_path / "a")
    file.write(b"abc")
    file.align(8)
    file.write(b"de")
    file.write_at(b"Z", 1)
    file.close()
    file.close()

    assert (tmp_path / "a").read_bytes() == b"aZc\0\0\0\0\0de"
    assert file.tell() == 10


def test_new_file_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")

    with pytest.raises(FileExistsError):
        NewFile(tmp_path / "a")
