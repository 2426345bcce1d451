"""A hashed file holds the same bytes with and without the page cache."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.tensors import hashed_file as new_file
from checkpoint_convert.tensors.hashed_file import NewFile


def test_new_file_appends_and_aligns(tmp_path: Path) -> None:
    file = NewFile(tmp_path / "a")
    file.write(b"abc")
    file.align(8)
    file.write(memoryview(b"de"))
    assert file.tell() == 10
    digest = file.close()
    file.abandon()

    assert (tmp_path / "a").read_bytes() == b"abc\0\0\0\0\0de"
    assert digest == hashlib.sha256(b"abc\0\0\0\0\0de").hexdigest()


def test_an_empty_file_has_a_digest(tmp_path: Path) -> None:
    assert NewFile(tmp_path / "a").close() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", [3 * 4096 * 8, 3 * 4096 * 8 + 5, 12345])
@pytest.mark.parametrize("way", ["direct", "refused", "not on this system", "larger blocks"])
def test_bytes_are_the_same_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, size: int) -> None:
    monkeypatch.setattr(new_file, "BUFFER_BYTES", 8192)
    pwrite = os.pwrite

    def refuse(descriptor: int, data: memoryview, offset: int) -> int:
        if new_file.fcntl.fcntl(descriptor, new_file.fcntl.F_GETFL) & new_file.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(descriptor, data[:1000], offset)

    if way == "refused":
        monkeypatch.setattr(new_file, "O_DIRECT", 0o40000000)  # not a flag that F_SETFL accepts
    elif way == "not on this system":
        monkeypatch.setattr(new_file, "O_DIRECT", 0)
    elif way == "larger blocks":
        monkeypatch.setattr(os, "pwrite", refuse)
    data = bytes(i * i % 251 for i in range(size))

    file = NewFile(tmp_path / "a")
    for start in range(0, size, 777):
        file.write(data[start : start + 777])
    digest = file.close()

    assert (tmp_path / "a").read_bytes() == data
    assert digest == hashlib.sha256(data).hexdigest()


def test_a_full_disk_is_named_and_ends_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_file, "BUFFER_BYTES", 4096)

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    file = NewFile(tmp_path / "a")

    with pytest.raises(OSError, match=r"No space left on device: .*/a'"):
        for _ in range(100):
            file.write(bytes(4096))
    file.abandon()


def test_new_file_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")

    with pytest.raises(FileExistsError):
        NewFile(tmp_path / "a")


def test_sha256sum_accepts_both_kinds_of_folder(
    hf_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoint_convert.megatron_core.checkpoint.FILE_BYTES", 20_000)  # several files
    from_hf(hf_folder("llama_gqa"), tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions(max_shard_bytes=30_000))

    assert len(list((tmp_path / "ckpt" / "release").glob("*.distcp"))) == 5
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) == 5
    for folder in (tmp_path / "ckpt" / "release", tmp_path / "hf"):
        command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        assert subprocess.run(command, cwd=folder, check=False).returncode == 0
