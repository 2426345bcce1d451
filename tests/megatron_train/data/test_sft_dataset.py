from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_train.config.settings import Data
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.sft_dataset import (
    Samples,
    evaluation_samples,
    test_sets,
    training_samples,
    validation_sets,
)
from pretokenizer.config.yaml_config import ConfigError
from tests.conftest import write_shard

test_sets.__test__ = False  # type: ignore[attr-defined]  # a function of the dataset, not a test


def shard_of(folder: Path, sizes: list[int], name: str = "p", first_token: int = 0) -> str:
    """Write a shard. Document d counts up from token first_token + 100 * d; its first token is the user's."""
    documents = [
        ([first_token + 100 * d + i for i in range(size)], [1] * min(size, 1) + [2] * (size - 1))
        for d, size in enumerate(sizes)
    ]
    return write_shard(folder / name, documents)


def rows_of(samples: Samples) -> list[list[list[int]]]:
    return [[tokens.tolist() for tokens, _ in samples.row(i)] for i in range(len(samples))]


def test_training_samples_follow_split_and_epoch_order(tmp_path: Path) -> None:
    data = Data(data_path=(shard_of(tmp_path, [3] * 10),), split="8,1,1", seq_length=16)
    samples = training_samples(data, 20, 1234)
    assert samples.document.tolist() == [5, 8, 4, 7, 0, 1, 9, 2, 5, 1, 8, 2, 0, 4, 7, 9, 8, 2, 0, 1]
    assert (samples.documents_per_epoch, samples.rows_per_epoch, samples.num_overlong) == (8, 8.0, 0)
    tokens, roles = samples.row(0)[0]
    assert (tokens.tolist(), roles.tolist()) == ([500, 501, 502], [1, 2, 2])
    assert {name: part.document.tolist() for name, part in validation_sets(data, 1234).items()} == {"valid": [6]}
    assert {name: part.document.tolist() for name, part in test_sets(data, 1234).items()} == {"test": [3]}


def test_train_data_path_is_not_split_and_starts_from_the_same_seed(tmp_path: Path) -> None:
    data = Data(train_data_path=(shard_of(tmp_path, [3] * 10),), seq_length=16)
    samples = training_samples(data, 10, 1234)
    assert samples.document.tolist() == [7, 2, 9, 1, 0, 8, 4, 5, 6, 3]
    assert validation_sets(data, 1234) == {}


@pytest.mark.parametrize("packing", [False, True])
def test_a_longer_run_has_the_same_beginning(tmp_path: Path, packing: bool) -> None:
    sizes = np.random.RandomState(0).randint(2, 30, 50).tolist()
    data = Data(train_data_path=(shard_of(tmp_path, sizes),), seq_length=32, packing=packing)
    short, long = training_samples(data, 30, 1234), training_samples(data, 200, 1234)
    assert rows_of(short) == rows_of(long)[:30]
    assert (len(short), len(long)) == (30, 200)


# ---- blends


def test_blend_mixes_prefixes_each_in_its_own_order(tmp_path: Path) -> None:
    first, second = shard_of(tmp_path, [3] * 4, "a"), shard_of(tmp_path, [3] * 2, "b", first_token=1000)
    data = Data(train_data_path=("3", first, "1", second), seq_length=16)
    samples = training_samples(data, 8, 1234)
    own = {
        prefix: training_samples(Data(train_data_path=(prefix,), seq_length=16), 8, 1234)
        for prefix in data.train_data_path[1::2]
    }
    expected_first = [row[0][0] for row in rows_of(own[first])]
    expected_second = [row[0][0] for row in rows_of(own[second])]
    starts = [row[0][0] for row in rows_of(samples)]
    assert [start for start in starts if start < 1000] == expected_first[:6]
    assert [start for start in starts if start >= 1000] == expected_second[:2]
    assert [start >= 1000 for start in starts] == [False, True, False, False, False, True, False, False]


# ---- over-long documents; documents of 3, 12 and 5 tokens, rows of at most 4 positions


def overlong(folder: Path, mode: str, seed: int = 0, packing: bool = False) -> Samples:
    data = Data(seq_length=4, overlong=mode, packing=packing)  # type: ignore[arg-type]
    return evaluation_samples(DocumentSet([shard_of(folder, [3, 12, 5, 1, 0])]), None, data)


def test_overlong_truncate_cuts_the_end(tmp_path: Path) -> None:
    samples = overlong(tmp_path, "truncate")
    assert rows_of(samples) == [[[0, 1, 2]], [[100, 101, 102, 103, 104]], [[200, 201, 202, 203, 204]]]
    assert samples.num_overlong == 1


def test_overlong_drop_leaves_it_out(tmp_path: Path) -> None:
    samples = overlong(tmp_path, "drop")
    assert rows_of(samples) == [[[0, 1, 2]], [[200, 201, 202, 203, 204]]]
    assert samples.num_overlong == 1


def test_overlong_split_has_every_label_once(tmp_path: Path) -> None:
    assert rows_of(overlong(tmp_path, "split")) == [
        [[0, 1, 2]],
        [[100, 101, 102, 103, 104]],
        [[104, 105, 106, 107, 108]],
        [[108, 109, 110, 111]],
        [[200, 201, 202, 203, 204]],
    ]


def test_overlong_random_window_takes_every_window(tmp_path: Path) -> None:
    data = Data(train_data_path=(shard_of(tmp_path, [12]),), seq_length=4, overlong="random_window")
    samples = training_samples(data, 500, 1234)
    assert set(samples.start.tolist()) == set(range(8))
    assert set(samples.length.tolist()) == {5}
    assert samples.row(0)[0][0].tolist() == list(range(int(samples.start[0]), int(samples.start[0]) + 5))


def test_overlong_split_packed_holds_every_label_once(tmp_path: Path) -> None:
    rows = rows_of(overlong(tmp_path, "split", packing=True))
    labels = sorted(token for row in rows for piece in row for token in piece[1:])
    assert labels == [1, 2, *range(101, 112), *range(201, 205)]
    assert max(sum(len(piece) - 1 for piece in row) for row in rows) <= 4


@pytest.mark.parametrize(("overlong", "rows"), [("truncate", 3.0), ("split", 5.0), ("drop", 2.0)])
def test_an_epoch_has_as_many_rows_as_documents_give(tmp_path: Path, overlong: Any, rows: float) -> None:
    data = Data(train_data_path=(shard_of(tmp_path, [5, 12, 4]),), seq_length=4, overlong=overlong)
    samples = training_samples(data, 20, 1)
    assert (samples.documents_per_epoch, samples.rows_per_epoch, len(samples)) == (3, rows, 20)
    assert evaluation_samples(DocumentSet([str(tmp_path / "p")]), None, data).rows_per_epoch == rows


@pytest.mark.parametrize("seed", range(4))
def test_drop_looks_on_when_the_first_documents_are_all_too_long(tmp_path: Path, seed: int) -> None:
    data = Data(train_data_path=(shard_of(tmp_path, [50, 4]),), seq_length=8, overlong="drop")
    assert training_samples(data, 1, seed).document.tolist() == [1]


def test_drop_fills_up_from_the_next_epoch(tmp_path: Path) -> None:
    data = Data(train_data_path=(shard_of(tmp_path, [3, 12, 4]),), seq_length=4, overlong="drop")
    samples = training_samples(data, 10, 1234)
    assert len(samples) == 10
    assert set(samples.document.tolist()) == {0, 2}


@pytest.mark.parametrize("packing", [False, True])
def test_data_without_a_single_label_is_refused(tmp_path: Path, packing: bool) -> None:
    data = Data(train_data_path=(shard_of(tmp_path, [1, 0, 9]),), seq_length=4, overlong="drop", packing=packing)
    with pytest.raises(ConfigError, match=r"has? two tokens and at most seq_length \+ 1 = 5"):
        training_samples(data, 4, 0)


# ---- packing


def test_packed_epochs_hold_every_document_exactly_once(tmp_path: Path) -> None:
    sizes = np.random.RandomState(3).randint(2, 30, 40).tolist()
    data = Data(train_data_path=(shard_of(tmp_path, sizes),), seq_length=32, packing=True)
    rows_per_epoch = training_samples(data, 1, 7).rows_per_epoch
    samples = training_samples(data, round(rows_per_epoch) * 3, 7)
    documents = np.bincount(samples.document, minlength=40)
    assert abs(documents - 3).max() <= 1  # epochs may differ by a row
    first = samples.document[: int(samples.row_offsets[int(rows_per_epoch)])]
    assert sorted(first.tolist()) == list(range(40))
    lengths = samples.length - 1
    sums = [int(lengths[a:b].sum()) for a, b in zip(samples.row_offsets[:-1], samples.row_offsets[1:], strict=True)]
    assert max(sums) <= 32
    assert samples.num_positions() == sum(sums)


def test_packed_epochs_differ(tmp_path: Path) -> None:
    data = Data(train_data_path=(shard_of(tmp_path, [9] * 30),), seq_length=32, packing=True)
    rows = rows_of(training_samples(data, 20, 7))
    assert rows[:8] != rows[8:16]


# ---- shards


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = (shard_of(tmp_path / "a", [3] * 10, "val"), shard_of(tmp_path / "b", [3] * 10, "val"))
    with pytest.raises(
        ConfigError, match=r"two sets to evaluate are called 'val', one of them .*b/val; give them as NAME"
    ):
        validation_sets(Data(valid_data_path=paths), 0)
    assert sorted(validation_sets(Data(valid_data_path=(paths[0], f"other={paths[1]}")), 0)) == ["other", "val"]
    with pytest.raises(ConfigError, match="are called 'valid:val'"):
        validation_sets(Data(data_path=("1", paths[0], "1", paths[1]), split="5,5,0"), 0)


def test_validation_sets_are_named_by_the_user_or_the_prefix(tmp_path: Path) -> None:
    one, two = shard_of(tmp_path, [3, 4], "one-val"), shard_of(tmp_path, [5], "two-val")
    sets = validation_sets(Data(train_data_path=("x",), valid_data_path=(one, f"second={two}"), seq_length=8), 0)
    assert {name: len(samples) for name, samples in sets.items()} == {"one-val": 2, "second": 1}
