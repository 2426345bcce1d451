from __future__ import annotations

import pytest
import torch

from checkpoint_convert.tensors.tensor import (
    TensorInfo,
    blocks_of,
    human_bytes,
    is_finite,
    joined,
    main_dtype,
    raw_bytes,
    same_bits,
    shape_of,
)

NAN = float("nan")


def test_same_bits_sees_signs_and_accepts_nan() -> None:
    assert same_bits(torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.tensor([1.0]), torch.tensor([1.0]).double())
    assert not same_bits(torch.ones(2), torch.ones(2, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_is_finite_finds_one_bad_number(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    numbers = torch.tensor([0.0, -0.0, 1.0, -1.0, largest, -largest] * 200, dtype=dtype)
    assert is_finite(numbers)
    assert is_finite(torch.arange(5))
    assert is_finite(numbers[:0])
    for bad in (NAN, -NAN, float("inf"), -float("inf")):
        numbers[777] = bad
        assert not is_finite(numbers)


def test_parts_are_one_tensor() -> None:
    parts = [torch.tensor([[1, 2]]), torch.tensor([[3, 4], [5, 6]])]

    assert shape_of(parts) == (3, 2)
    assert joined(parts).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert joined(parts[:1]) is parts[0]


def test_blocks_are_small_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoint_convert.tensors.tensor.BLOCK_BYTES", 12)
    square = torch.arange(16, dtype=torch.float32).view(4, 4)
    row = torch.tensor([7.0]).expand(3, 5)  # all elements share one place in memory

    blocks = list(blocks_of([square, square.t(), row]))

    assert max(block.nbytes for block in blocks) == 12
    found = [number for block in blocks for number in block.flatten().tolist()]
    assert found == [*range(16), *(column + 4 * row for column in range(4) for row in range(4)), *[7] * 15]


def test_raw_bytes_are_in_c_order() -> None:
    assert bytes(raw_bytes(torch.tensor([[1, 2], [3, 4]], dtype=torch.int16).t())) == b"\1\0\3\0\2\0\4\0"


def test_main_dtype_counts_bytes() -> None:
    small, large = TensorInfo((10,), torch.float32), TensorInfo((30,), torch.bfloat16)

    assert main_dtype([small, small, large]) is torch.float32
    assert main_dtype([small, large]) is torch.bfloat16


def test_human_bytes() -> None:
    assert [human_bytes(n) for n in (999, 60_800_000, 2_140_000_000_000)] == ["999 B", "60.8 MB", "2.14 TB"]
