"""Documents of part files are read as written, in any order."""

from pathlib import Path

import numpy as np
import pytest

from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import EncodedBatch, ranges
from pretokenizer.selection.document_table import DocumentTable, _join
from pretokenizer.selection.token_store import TokenStore
from pretokenizer.tasks.part_files import PartError, PartWriter, is_complete, read_part


def batch(documents: list[list[list[int]]], roles: list[list[int]]) -> EncodedBatch:
    """Return a batch of documents, each a list of turns of ids."""
    turns = [turn for document in documents for turn in document]
    return EncodedBatch(
        tokens=np.array([i for turn in turns for i in turn], dtype=np.uint32),
        document_sizes=np.array([sum(map(len, document)) for document in documents]),
        turn_counts=np.array([len(document) for document in documents]),
        turn_sizes=np.array([len(turn) for turn in turns]),
        turn_roles=np.array([role for own in roles for role in own], dtype=np.uint8),
        control_counts=np.arange(len(documents)),
        straddling_counts=np.zeros(len(documents)),
        texts=[f"text {len(document)}" for document in documents],
    )


@pytest.fixture
def table(tmp_path: Path) -> DocumentTable:
    """Return the table of two parts: the first holds record 0 with two documents and record 2, the second record 3."""
    with PartWriter(tmp_path / "p0", np.uint16, keep_texts=True) as part:
        part.add_units([0, 0], [0, 2], [2, 1])
        documents = [[[1, 2], [3]], [[4]], [[5, 6], [7, 8]]]
        part.add_documents(batch(documents, [[1, 2], [2], [0, 4]]), ["en", None, "de"], None)
        part.header.num_records = 3
        part.header.dropped["blank"] += 1
    with PartWriter(tmp_path / "p1", np.uint16, keep_texts=True) as part:
        part.add_units([0], [0], [1])
        part.add_documents(batch([[[1, 2], [3]]], [[1, 2]]), ["de"], [True])
        part.header.num_records = 1
    return _join([(read_part(tmp_path / name, 2), (0, True)) for name in ("p0", "p1")])


def test_columns(table: DocumentTable) -> None:
    assert (table.num_records, table.unit_records.tolist(), table.unit_documents.tolist()) == (4, [0, 2, 3], [2, 1, 1])
    assert table.sizes.tolist() == [3, 1, 4, 3] and table.turns.tolist() == [2, 1, 2, 2]
    assert table.assistant_tokens.tolist() == [1, 1, 0, 1]
    assert table.role_tokens(Role.ASSISTANT_NO_LOSS).tolist() == [0, 0, 2, 0]
    assert [table.lang_names[i] for i in table.langs] == ["en", "unknown", "de", "de"]
    assert table.keys[0] == table.keys[3] != table.keys[1]
    assert table.contaminated.tolist() == [False, False, False, True]
    assert table.origins_of(np.array([3, 0, 1, 2])).tolist() == [[0, 3], [0, 0], [0, 0], [0, 2]]
    assert table.documents_of_units(np.array([2, 0])).tolist() == [3, 0, 1]
    assert table.dropped == {"blank": 1}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0], [1], []])
def test_gathering_in_any_order(table: DocumentTable, order: list[int]) -> None:
    store = TokenStore(np.uint16)
    ids = {0: [1, 2, 3], 1: [4], 2: [5, 6, 7, 8], 3: [1, 2, 3]}
    roles = {0: [1, 1, 2], 1: [2], 2: [0, 0, 4, 4], 3: [1, 1, 2]}
    documents = np.array(order, dtype=np.int64)
    assert store.gather(table, documents).tolist() == [i for d in order for i in ids[d]]
    assert store.gather_roles(table, documents, np.uint16).tolist() == [r for d in order for r in roles[d]]
    lines = [f'{{"text": "text {table.turns[d]}"}}\n' for d in order]
    assert store.gather_texts(table, documents) == "".join(lines).encode()


def test_ranges() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 3, 0])).tolist() == [5, 6, 0, 1, 2]
    assert ranges(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).tolist() == []


def test_a_part_is_complete_only_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), PartWriter(tmp_path / "p", np.uint16, keep_texts=False):
        raise RuntimeError("killed")
    assert not is_complete(tmp_path / "p")
    with pytest.raises(PartError, match=r"p\.json: cannot read"):
        read_part(tmp_path / "p", 2)
    with PartWriter(tmp_path / "p", np.uint16, keep_texts=False):
        pass
    assert is_complete(tmp_path / "p") and read_part(tmp_path / "p", 2).header.num_tokens == 0
    (tmp_path / "p.npz").write_bytes(b"PK")
    with pytest.raises(PartError, match=r"remove p\.\* there"):
        read_part(tmp_path / "p", 2)
