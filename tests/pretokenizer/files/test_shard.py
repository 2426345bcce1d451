"""Shards have the literal bytes of their format, and megatron-core reads and writes the same format."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretokenizer.files.shard import ShardError, ShardReader, ShardWriter, optimal_dtype, write_index

INDEX_OF_TWO = bytes.fromhex(
    "4d4d49444944580000"  # magic
    "0100000000000000"  # version 1
    "08"  # uint16
    "0200000000000000"  # two items
    "0300000000000000"  # three document entries
    "0300000001000000"  # sizes 3, 1
    "0000000000000000" "0600000000000000"  # pointers 0, 6
    "0000000000000000" "0100000000000000" "0200000000000000"  # documents 0, 1, 2
)  # fmt: skip


def write(prefix: Path, documents: list[list[int]], dtype: Any = np.uint16) -> str:
    with ShardWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add(document)
    return str(prefix)


def test_bytes_of_a_small_shard(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 258, 32006], [7]])
    assert (tmp_path / "a.bin").read_bytes() == bytes.fromhex("0100" "0201" "067d" "0700")  # fmt: skip
    assert (tmp_path / "a.idx").read_bytes() == INDEX_OF_TWO


def test_reader_returns_items_and_ranges(tmp_path: Path) -> None:
    reader = ShardReader(write(tmp_path / "a", [[1, 258, 32006], [7], []]))
    assert [item.tolist() for item in reader] == [[1, 258, 32006], [7], []]
    assert len(reader) == 3 and reader.sizes.tolist() == [3, 1, 0] and reader.dtype == np.uint16
    assert reader[-2].tolist() == [7]
    assert [item.tolist() for item in reader[:2]] == [[1, 258, 32006], [7]]
    assert reader.get(0, 1).tolist() == [258, 32006]
    assert reader.get(0, 1, 1).tolist() == [258]
    assert reader.flat().tolist() == [1, 258, 32006, 7]
    with pytest.raises(ValueError, match="read-only"):
        reader[0][0] = 5
    with pytest.raises(IndexError, match="no item 3"):
        reader[3]
    with pytest.raises(ShardError, match=r"item 0 has 3 elements, not 1\.\.4"):
        reader.get(0, 1, 3)


def test_views_outlive_their_reader(tmp_path: Path) -> None:
    view = ShardReader(write(tmp_path / "a", [[1, 2, 3]]))[0]
    assert view.tolist() == [1, 2, 3]


def test_reader_pickles_as_its_prefix(tmp_path: Path) -> None:
    reader = ShardReader(write(tmp_path / "a", [[1, 2, 3]]))
    assert pickle.loads(pickle.dumps(reader))[0].tolist() == [1, 2, 3]  # noqa: S301


def test_batches_and_items_mix(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a", np.int32) as writer:
        writer.add([1, 2])
        writer.add_batch(np.array([3, 4, 70000]), [1, 2])
        writer.add([5])
        writer.add_batch([], [])
    assert [item.tolist() for item in ShardReader(tmp_path / "a")] == [[1, 2], [3], [4, 70000], [5]]


def test_empty_shard(tmp_path: Path) -> None:
    reader = ShardReader(write(tmp_path / "a", []))
    assert len(reader) == 0 and reader.flat().tolist() == []


def test_nothing_is_published_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), ShardWriter(tmp_path / "a", np.uint16) as writer:
        writer.add([1])
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ShardError, match=r"values 5\.\.65536 do not fit uint16"),
        ShardWriter(tmp_path / "a", np.uint16) as w,
    ):
        w.add([5, 65536])
    with pytest.raises(ShardError, match="expected whole numbers"), ShardWriter(tmp_path / "a", np.uint16) as w:
        w.add([0.5])
    with (
        pytest.raises(ShardError, match="sizes add up to 3, but 2 elements"),
        ShardWriter(tmp_path / "a", np.uint16) as w,
    ):
        w.add_batch([1, 2], [3])


def test_optimal_dtype_is_the_originals_rule() -> None:
    assert [optimal_dtype(n) for n in (16, 65499, 65500)] == [np.uint16, np.uint16, np.int32]


def test_document_index_of_the_original_is_accepted(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 258, 32006], [7]])
    original = INDEX_OF_TWO[:26] + struct.pack("<Q", 1) + INDEX_OF_TWO[34:58] + bytes(8)
    (tmp_path / "a.idx").write_bytes(original)
    assert [item.tolist() for item in ShardReader(tmp_path / "a")] == [[1, 258, 32006], [7]]


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, b"TNTIDX\0\0\0", "not a shard index"),
        (9, struct.pack("<Q", 2), "index version 2, this program reads 1"),
        (17, b"\x07", "element type code 7 is not one of"),
        (18, struct.pack("<Q", 3), "82 bytes, but 3 items and 3 documents need 94"),
        (34, struct.pack("<i", -1), "item 0 has the negative size -1"),
        (34, struct.pack("<i", 9), r"a\.bin: 8 bytes, but the index names 20 \(truncated\?\)"),
        (50, struct.pack("<q", 8), r"item 1 is at bytes 8\.\.10, outside a \.bin of 8 bytes"),
        (50, struct.pack("<q", -2), r"item 1 is at bytes -2\.\.0"),
        (50, struct.pack("<q", 5), r"item 1 is at bytes 5\.\.7"),
        (74, struct.pack("<q", 9), "the document index does not fit 2 items"),
    ],
)
def test_damaged_index_is_named(tmp_path: Path, position: int, value: bytes, message: str) -> None:
    write(tmp_path / "a", [[1, 258, 32006], [7]])
    damaged = INDEX_OF_TWO[:position] + value + INDEX_OF_TWO[position + len(value) :]
    (tmp_path / "a.idx").write_bytes(damaged)
    with pytest.raises(ShardError, match=message) as error:
        ShardReader(tmp_path / "a")
    assert str(tmp_path / "a") in str(error.value)


def test_truncated_and_missing_files_are_named(tmp_path: Path) -> None:
    prefix = write(tmp_path / "a", [[1, 2, 3]])
    (tmp_path / "a.idx").write_bytes(INDEX_OF_TWO[:20])
    with pytest.raises(ShardError, match=r"a\.idx: 20 bytes, too short for an index"):
        ShardReader(prefix)
    with pytest.raises(ShardError, match=r"b\.idx: cannot open: No such file"):
        ShardReader(tmp_path / "b")
    write(tmp_path / "c", [[1, 2, 3]])
    (tmp_path / "c.bin").unlink()
    with pytest.raises(ShardError, match=r"c\.bin: cannot open"):
        ShardReader(tmp_path / "c")


def test_pointers_beyond_32_bits(tmp_path: Path) -> None:
    """A sparse file can hold more than 2^31 tokens without taking disk space."""
    sizes = np.array([2**31 - 1, 2**31 - 1, 3], dtype=np.int32)
    write_index(tmp_path / "a.idx", sizes, np.uint16)
    last = 2 * (2**31 - 1) * 2
    with (tmp_path / "a.bin").open("wb") as file:
        file.seek(last)
        file.write(np.array([4, 5, 6], dtype="<u2").tobytes())
    reader = ShardReader(tmp_path / "a")
    assert int(reader.pointers[2]) == last == 8589934588
    assert reader[2].tolist() == [4, 5, 6]
    assert reader.get(1, 2**31 - 3, 2).tolist() == [0, 0]
    assert reader.is_contiguous


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_megatron_core_reads_our_shards(tmp_path: Path, dtype: Any) -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write(tmp_path / "a", [[1, 258, 32006], [7]], dtype)
    dataset = indexed_dataset.IndexedDataset(str(tmp_path / "a"))
    assert [dataset[i].tolist() for i in range(len(dataset))] == [[1, 258, 32006], [7]]
    assert dataset.document_indices.tolist() == [0, 1, 2]


def test_shards_of_megatron_core_are_read(tmp_path: Path) -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    torch = pytest.importorskip("torch")
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=np.uint16)
    for document in ([1, 258, 32006], [7]):
        builder.add_item(torch.tensor(document))
        builder.end_document()
    builder.finalize(str(tmp_path / "a.idx"))
    assert (tmp_path / "a.idx").read_bytes() == INDEX_OF_TWO
    assert [item.tolist() for item in ShardReader(tmp_path / "a")] == [[1, 258, 32006], [7]]
