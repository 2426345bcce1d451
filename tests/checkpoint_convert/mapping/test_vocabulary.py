"""Growing and shrinking the vocabulary keeps the old rows and initialises the new ones."""

from __future__ import annotations

import pytest
import torch

from checkpoint_convert.mapping.vocabulary import RowPlan, grow, shrink
from checkpoint_convert.tensors.tensor import ConvertError, joined

ROWS = torch.tensor([[1.0, 2.0], [3.0, 6.0]])


def test_grow_with_mean() -> None:
    grown = joined(grow(ROWS, RowPlan(2, 3, 4, "mean"), "embedding"))

    assert grown.tolist() == [[1.0, 2.0], [3.0, 6.0], [2.0, 4.0], [2.0, 4.0]]


def test_grow_with_last_row() -> None:
    grown = joined(grow(ROWS, RowPlan(2, 3, 4, "last_row"), "embedding"))

    assert grown.tolist() == [[1.0, 2.0], [3.0, 6.0], [3.0, 6.0], [3.0, 6.0]]


def test_grow_with_normal_is_drawn_per_tensor_and_repeats() -> None:
    plan = RowPlan(2, 1000, 1000, "normal", std=0.5)

    first, again, other = (joined(grow(ROWS, plan, name)) for name in ("embedding", "embedding", "head"))

    assert torch.equal(first[:2], ROWS)
    assert torch.equal(first, again)
    assert not torch.equal(first[2:], other[2:])
    assert first[2:].std().item() == pytest.approx(0.5, rel=0.05)


def test_grow_keeps_the_dtype_and_all_rows_when_nothing_is_added() -> None:
    rows = ROWS.bfloat16()

    grown = joined(grow(rows, RowPlan(2, 2, 2), "embedding"))

    assert grown.dtype == torch.bfloat16
    assert torch.equal(grown, rows)


def test_grow_refuses_other_rows_than_the_config_says() -> None:
    with pytest.raises(ConvertError, match=r"embedding: has 2 rows.* 3"):
        grow(ROWS, RowPlan(3, 3, 4), "embedding")


def test_shrink_takes_the_first_rows() -> None:
    assert shrink(ROWS, 1).tolist() == [[1.0, 2.0]]


def test_describe_names_every_count() -> None:
    assert RowPlan(32000, 32007, 32128).describe() == (
        "32,000 rows of the source + 7 new (--new_token_init mean) = 32,007, padded to 32,128"
    )
