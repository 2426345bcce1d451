"""Bits, bytes and words."""

from __future__ import annotations

import pytest
import torch

from checkpoint_convert.tensors import TensorInfo, human_bytes, is_finite, main_dtype, raw_bytes, same_bits

NAN = float("nan")


def test_same_bits_sees_signs_and_accepts_nan() -> None:
    assert same_bits(torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.tensor([1.0]), torch.tensor([1.0]).double())
    assert not same_bits(torch.ones(2), torch.ones(2, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_finite_finds_one_bad_number(dtype: torch.dtype) -> None:
    numbers = torch.ones(1000, dtype=dtype)
    assert is_finite(numbers)
    for bad in (NAN, float("inf"), -float("inf")):
        numbers[777] = bad
        assert not is_finite(numbers)


def test_raw_bytes_are_in_c_order() -> None:
    assert bytes(raw_bytes(torch.tensor([[1, 2], [3, 4]], dtype=torch.int16).t())) == b"\1\0\3\0\2\0\4\0"


def test_main_dtype_counts_bytes() -> None:
    small, large = TensorInfo((10,), torch.float32), TensorInfo((30,), torch.bfloat16)

    assert main_dtype([small, small, large]) is torch.float32
    assert main_dtype([small, large]) is torch.bfloat16


def test_human_bytes() -> None:
    assert [human_bytes(n) for n in (999, 60_800_000, 2_140_000_000_000)] == ["999 B", "60.8 MB", "2.14 TB"]
