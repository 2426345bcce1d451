from __future__ import annotations

import numpy as np
import pytest

from megatron_train.data.document_order import blend_order, epoch_order, parse_blend, split_documents
from pretokenizer.config.yaml_config import ConfigError

# ---- split and epochs: goldens of Megatron-LLM with numpy's legacy RandomState(1234)


def test_split_and_epochs_of_ten_documents_are_megatron_llms() -> None:
    rng = np.random.RandomState(1234)
    train, valid, test = split_documents(10, "8,1,1", rng)
    assert [*train.tolist(), *valid.tolist(), *test.tolist()] == [7, 2, 9, 1, 0, 8, 4, 5, 6, 3]
    assert epoch_order(train, 20, rng).tolist() == [5, 8, 4, 7, 0, 1, 9, 2, 5, 1, 8, 2, 0, 4, 7, 9, 8, 2, 0, 1]
    assert epoch_order(valid, 2, rng).tolist() == [6, 6]
    assert epoch_order(test, 2, rng).tolist() == [3, 3]


def test_split_of_seven_documents_leaves_nothing_to_validate_on() -> None:
    rng = np.random.RandomState(1234)
    train, valid, test = split_documents(7, "969,30,1", rng)
    assert (train.tolist(), valid.tolist(), test.tolist()) == ([2, 1, 6, 0, 4, 5, 3], [], [])
    assert epoch_order(train, 9, rng).tolist() == [5, 2, 0, 4, 6, 3, 1, 1, 3]
    assert epoch_order(valid, 2, rng).tolist() == []


@pytest.mark.parametrize(
    ("documents", "split", "sizes"),
    [
        (793_569, "969,30,1", (768_968, 23_807, 794)),
        (11_441, "969,30,1", (11_087, 343, 11)),
        (100, "1", (100, 0, 0)),
        (100, "90/10", (90, 10, 0)),
        (100, "0,1,0", (0, 100, 0)),
    ],
)
def test_split_sizes(documents: int, split: str, sizes: tuple[int, int, int]) -> None:
    parts = split_documents(documents, split, np.random.RandomState(1234))
    assert tuple(len(part) for part in parts) == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(documents))


@pytest.mark.parametrize("split", ["0,0,0", "-1,2,0", "a,b,c", "", "inf,1,1", "nan,1,1", "1,1,1,1"])
def test_a_split_that_is_not_three_shares_with_a_positive_sum_is_refused(split: str) -> None:
    with pytest.raises(ConfigError, match=f"split is '{split}'; give three shares"):
        split_documents(10, split, np.random.RandomState(0))


# ---- blends


def test_blend_order_takes_the_component_furthest_behind() -> None:
    """Megatron-LLM's greedy rule by hand: take the largest w * max(i, 1) - taken, and the first of equal ones."""
    assert blend_order([0.5, 0.5], 6).tolist() == [0, 1, 0, 1, 0, 1]
    assert blend_order([3, 1], 8).tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert np.bincount(blend_order([0.7, 0.2, 0.1], 1000)).tolist() == [700, 200, 100]


def test_parse_blend() -> None:
    assert parse_blend(["p"], "data_path") == [(1.0, "p")]
    assert parse_blend(["0.3", "a", "0.7", "b"], "data_path") == [(0.3, "a"), (0.7, "b")]


@pytest.mark.parametrize("paths", [["a", "b"], ["1", "a", "2"]])
def test_parse_blend_refuses_what_is_not_pairs(paths: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data_path: .* is neither one prefix nor pairs"):
        parse_blend(paths, "data_path")


def test_parse_blend_refuses_a_weight_of_zero() -> None:
    with pytest.raises(ConfigError, match=r"data_path: .* weight that is not a number above 0"):
        parse_blend(["0", "a", "1", "b"], "data_path")
    with pytest.raises(ConfigError, match=r"weight that is not a number above 0"):
        parse_blend(["nan", "a", "1", "b"], "data_path")
