"""Digests computed while other files are written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_convert.checksums import Checksums
from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.plan import ExportOptions, ImportOptions


def test_known_gives_the_digest_of_each_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    with Checksums() as checksums:
        checksums.add(tmp_path / "abc")
        known = checksums.known()

    assert known == {tmp_path / "abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}


def test_sha256sum_accepts_both_kinds_of_folder(
    hf_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoint_convert.megatron_io.FILE_BYTES", 20_000)  # several files
    from_hf(hf_folder("llama_gqa"), tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "hf", ExportOptions(max_shard_bytes=30_000))

    assert len(list((tmp_path / "ckpt" / "release").glob("*.distcp"))) == 5
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) == 5
    for folder in (tmp_path / "ckpt" / "release", tmp_path / "hf"):
        command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        assert subprocess.run(command, cwd=folder, check=False).returncode == 0
