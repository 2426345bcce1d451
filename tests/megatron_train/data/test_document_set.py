from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_train.config.settings import Data
from megatron_train.data.batch import LossRule, loss_weights
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.sft_dataset import open_documents, training_samples
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.shard import ShardError, ShardWriter
from tests.megatron_train.data.test_sft_dataset import shard_of


def test_documents_of_several_prefixes_are_numbered_through(tmp_path: Path) -> None:
    documents = DocumentSet([shard_of(tmp_path, [3, 2], "a"), shard_of(tmp_path, [4], "b", first_token=1000)])
    assert (len(documents), documents.lengths.tolist()) == (3, [3, 2, 4])
    assert documents.piece(2, 1, 2)[0].tolist() == [1001, 1002]
    assert documents.piece(1, 0, 2)[1].tolist() == [1, 2]


def test_fingerprint_changes_with_the_documents(tmp_path: Path) -> None:
    same, longer = shard_of(tmp_path, [3, 2], "a"), shard_of(tmp_path, [3, 3], "b")
    assert DocumentSet([same]).fingerprint() == DocumentSet([same]).fingerprint()
    assert DocumentSet([same]).fingerprint() != DocumentSet([longer]).fingerprint()


def test_a_missing_shard_names_the_present_ones(tmp_path: Path) -> None:
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
    """megatron-core writes doc_idx 0..N or its own documents. Megatron-LLM's instruction shards have only [0]."""
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
        documents = DocumentSet([str(tmp_path / name)])
        assert documents.lengths.tolist() == [3, 2]
        assert [documents.piece(i, 0, n)[0].tolist() for i, n in ((0, 3), (1, 2))] == [[7, 8, 9], [3, 4]]


def test_shards_of_megatrons_own_preprocessing_need_loss_roles_all(tmp_path: Path) -> None:
    prefix = str(tmp_path / "wiki_text_document")
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    for tokens in ([5, 6, 7], [8, 9]):
        builder.add_item(torch.tensor(tokens))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")

    for name in (prefix, str(tmp_path / "wiki")):
        documents = DocumentSet([name])
        assert documents.lengths.tolist() == [3, 2]
        assert [part.tolist() for part in documents.piece(0, 1, 2)] == [[6, 7], [0, 0]]
        with pytest.raises(ConfigError, match=r"wiki.*no roles.*--loss_roles all"):
            open_documents([name], Data(seq_length=8))
        data = Data(seq_length=8, loss_roles=("all",))
        assert open_documents([name], data).without_roles == [name]
    samples = training_samples(Data(seq_length=8, train_data_path=(prefix,), loss_roles=("all",)), 2, seed=1)
    assert sorted(part[0].tolist() for row in range(2) for part in samples.row(row)) == [[5, 6, 7], [8, 9]]
    assert loss_weights(np.array([0, 0, 0]), LossRule.of(data)).tolist() == [1.0, 1.0]
