"""Tensors are mapped over the bytes of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError


def test_tensor_reads_at_any_offset(tmp_path: Path) -> None:
    data = bytes(range(256)) * 64
    (tmp_path / "a").write_bytes(data)
    mapped = MappedFile(tmp_path / "a")

    assert mapped.tensor(5000, 3, torch.uint8).tolist() == list(data[5000:5003])
    assert mapped.tensor(4097, 4, torch.int16).tolist() == [0x0201, 0x0403]  # not aligned
    assert mapped.tensor(16384, 0, torch.float32).shape == (0,)
    assert mapped.read(16380, 10) == data[16380:]


def test_writing_to_a_tensor_does_not_change_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\1\2\3\4")

    MappedFile(tmp_path / "a").tensor(0, 4, torch.uint8).zero_()

    assert (tmp_path / "a").read_bytes() == b"\1\2\3\4"


def test_tensor_beyond_the_end_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\1\2\3\4")

    with pytest.raises(ConvertError, match=r"a: truncated: bytes 2 to 6 are beyond its end"):
        MappedFile(tmp_path / "a").tensor(2, 4, torch.uint8)
    with pytest.raises(ConvertError, match="b: cannot read: No such file or directory"):
        MappedFile(tmp_path / "b")
