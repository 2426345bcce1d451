from __future__ import annotations

import numpy as np
import pytest

from megatron_train.data.packing import pack_rows


def sets(rows: list[np.ndarray]) -> list[list[int]]:
    return sorted(sorted(row.tolist()) for row in rows)


def test_pack_rows_takes_the_tightest_fit() -> None:
    """The longest documents come first: 7 and 6 start rows with 3 and 4 free tokens, which 3 and 4 fill exactly."""
    assert sets(pack_rows(np.array([3, 7, 4, 6]), 10, 100, 0)) == [[0, 1], [2, 3]]


def test_pack_rows_gives_a_full_document_a_row_of_its_own() -> None:
    assert sets(pack_rows(np.array([10, 10, 1]), 10, 100, 0)) == [[0], [1], [2]]


def test_pack_rows_holds_every_document_exactly_once_and_no_row_too_much() -> None:
    lengths = np.random.RandomState(0).randint(1, 400, 5000)
    rows = pack_rows(lengths, 4096, 1024, 0)
    assert sorted(np.concatenate(rows).tolist()) == list(range(5000))
    assert max(int(lengths[row].sum()) for row in rows) <= 4096


def test_pack_rows_packs_only_within_a_window() -> None:
    rows = pack_rows(np.array([1, 1, 1, 1, 1]), 10, 2, 0)
    assert sets(rows) == [[0, 1], [2, 3], [4]]


def test_pack_rows_fills_99_percent_of_chat_like_lengths() -> None:
    lengths = np.minimum(4096, np.random.RandomState(1).lognormal(5.6, 0.9, 20_000).astype(np.int64) + 8)
    rows = pack_rows(lengths, 4096, 16384, 0)
    assert lengths.sum() / (len(rows) * 4096) > 0.99


def test_pack_rows_is_deterministic_and_moves_rows_with_the_seed() -> None:
    lengths = np.random.RandomState(2).randint(1, 30, 200)

    def order(seed: int) -> list[list[int]]:
        return [row.tolist() for row in pack_rows(lengths, 32, 64, seed)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(map(sorted, order(0))) == sorted(map(sorted, order(1)))


def test_pack_rows_does_not_put_the_longest_first() -> None:
    lengths = np.arange(1, 101)
    first_of_each = [int(lengths[row].max()) for row in pack_rows(lengths, 128, 100, 0)]
    assert first_of_each != sorted(first_of_each, reverse=True)


def test_pack_rows_refuses_a_document_longer_than_a_row() -> None:
    with pytest.raises(ValueError, match="a document fills 11 positions, more than the row's 10"):
        pack_rows(np.array([3, 11]), 10, 100, 0)


def test_pack_rows_of_nothing_is_nothing() -> None:
    assert pack_rows(np.zeros(0, np.int64), 10, 100, 0) == []
