from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_train.config import Data
from megatron_train.data.sft_dataset import (
    DocumentSet,
    Samples,
    blend_order,
    epoch_order,
    evaluation_samples,
    parse_blend,
    split_documents,
    test_sets,
    training_samples,
    validation_sets,
)
from pretokenizer.shard import ShardError, ShardWriter
from pretokenizer.yaml_config import ConfigError
from tests.conftest import write_shard

test_sets.__test__ = False  # type: ignore[attr-defined]  # a function of the dataset, not a test


def shard_of(folder: Path, sizes: list[int], name: str = "p", first_token: int = 0) -> str:
    """Document d has tokens first_token + 100 * d, + 1, ...; the first is the user's, the others the assistant's."""
    documents = [
        ([first_token + 100 * d + i for i in range(size)], [1] * min(size, 1) + [2] * (size - 1))
        for d, size in enumerate(sizes)
    ]
    return write_shard(folder / name, documents)


def rows_of(samples: Samples) -> list[list[list[int]]]:
    return [[tokens.tolist() for tokens, _ in samples.row(i)] for i in range(len(samples))]


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


@pytest.mark.parametrize("split", ["0,0,0", "-1,2,0"])
def test_split_without_a_positive_sum_is_refused(split: str) -> None:
    with pytest.raises(ConfigError, match="give three shares such as 969,30,1"):
        split_documents(10, split, np.random.RandomState(0))


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


def test_blend_order_takes_the_component_furthest_behind() -> None:
    """Megatron-LLM's greedy rule, worked by hand: w * max(i, 1) - taken, the first of equals."""
    assert blend_order([0.5, 0.5], 6).tolist() == [0, 1, 0, 1, 0, 1]
    assert blend_order([3, 1], 8).tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert np.bincount(blend_order([0.7, 0.2, 0.1], 1000)).tolist() == [700, 200, 100]


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


def test_parse_blend() -> None:
    assert parse_blend(["p"], "data_path") == [(1.0, "p")]
    assert parse_blend(["0.3", "a", "0.7", "b"], "data_path") == [(0.3, "a"), (0.7, "b")]


@pytest.mark.parametrize("paths", [["a", "b"], ["1", "a", "2"]])
def test_parse_blend_refuses_what_is_not_pairs(paths: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data_path: .* is neither one prefix nor pairs"):
        parse_blend(paths, "data_path")


def test_parse_blend_refuses_a_weight_of_zero() -> None:
    with pytest.raises(ConfigError, match="data_path: weights must be above 0"):
        parse_blend(["0", "a", "1", "b"], "data_path")


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
    assert abs(documents - 3).max() <= 1  # epochs differ by a row or so
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


def test_validation_sets_are_named_by_the_user_or_the_prefix(tmp_path: Path) -> None:
    one, two = shard_of(tmp_path, [3, 4], "one-val"), shard_of(tmp_path, [5], "two-val")
    sets = validation_sets(Data(train_data_path=("x",), valid_data_path=(one, f"second={two}"), seq_length=8), 0)
    assert {name: len(samples) for name, samples in sets.items()} == {"one-val": 2, "second": 1}


def test_documents_of_several_prefixes_are_numbered_through(tmp_path: Path) -> None:
    documents = DocumentSet([shard_of(tmp_path, [3, 2], "a"), shard_of(tmp_path, [4], "b", first_token=1000)])
    assert (len(documents), documents.lengths.tolist()) == (3, [3, 2, 4])
    assert documents.piece(2, 1, 2)[0].tolist() == [1001, 1002]
    assert documents.piece(1, 0, 2)[1].tolist() == [1, 2]


def test_fingerprint_changes_with_the_documents(tmp_path: Path) -> None:
    same, longer = shard_of(tmp_path, [3, 2], "a"), shard_of(tmp_path, [3, 3], "b")
    assert DocumentSet([same]).fingerprint() == DocumentSet([same]).fingerprint()
    assert DocumentSet([same]).fingerprint() != DocumentSet([longer]).fingerprint()


def test_a_missing_shard_names_those_that_are_there(tmp_path: Path) -> None:
    shard_of(tmp_path, [3], "there-train")
    with pytest.raises(ShardError) as error:
        DocumentSet([str(tmp_path / "missing")])
    assert f"{tmp_path}/missing-text.idx: no such shard" in str(error.value)
    assert f"prefixes found: {tmp_path}/there-train" in str(error.value)


def test_text_and_role_shards_of_different_documents_are_refused(tmp_path: Path) -> None:
    prefix = shard_of(tmp_path, [3, 4])
    with ShardWriter(f"{prefix}-role", np.uint16) as writer:
        writer.add([1, 2, 2])
        writer.add([1, 2])
    with pytest.raises(ShardError, match="document lengths differ"):
        DocumentSet([prefix])


def test_shards_of_megatron_core_and_megatron_llm_are_read(tmp_path: Path) -> None:
    """megatron-core writes doc_idx 0..N or its own documents, Megatron-LLM's instruction shards only [0]."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    torch = pytest.importorskip("torch")
    for kind in ("text", "role"):
        builder = IndexedDatasetBuilder(str(tmp_path / f"core-{kind}.bin"), dtype=np.uint16)
        for tokens in ([7, 8, 9], [3, 4]):
            builder.add_document(torch.tensor(tokens), [len(tokens)])
        builder.finalize(str(tmp_path / f"core-{kind}.idx"))
        raw = (tmp_path / f"core-{kind}.idx").read_bytes()
        llm = raw[:26] + (1).to_bytes(8, "little") + raw[34 : 34 + 2 * 12] + (0).to_bytes(8, "little")
        (tmp_path / f"llm-{kind}.idx").write_bytes(llm)
        (tmp_path / f"llm-{kind}.bin").write_bytes((tmp_path / f"core-{kind}.bin").read_bytes())
    for name in ("core", "llm"):
        samples = evaluation_samples(DocumentSet([str(tmp_path / name)]), None, replace(Data(), seq_length=8))
        assert rows_of(samples) == [[[7, 8, 9]], [[3, 4]]]
