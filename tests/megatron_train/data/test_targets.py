from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_train.config.settings import Data
from megatron_train.data import targets
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.targets import has_target
from pretokenizer.chat.roles import Role
from tests.conftest import write_shard

DOCUMENTS = [
    ([5, 6, 7, 8], [1, 1, 1, 2]),  # the target is the last of four tokens
    ([5, 6], [1, 1]),
    ([5, 6], [2, 1]),  # the target is the first token, which is never a label
    ([5], [2]),
    ([5, 6], [1, 2]),
]


@pytest.fixture
def documents(tmp_path: Path) -> DocumentSet:
    prefixes = [write_shard(tmp_path / "a", DOCUMENTS[:2]), write_shard(tmp_path / "b", DOCUMENTS[2:])]
    return DocumentSet(prefixes)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_a_document_has_a_target_when_a_label_has_a_loss_role(
    documents: DocumentSet, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "CHUNK_TOKENS", chunk)
    data = Data(seq_length=8)
    assert has_target(documents, data).tolist() == [True, False, False, False, True]
    assert has_target(documents, replace(data, loss_roles=("user",))).tolist() == [True, True, True, False, False]
    assert has_target(documents, replace(data, loss_alignment="input")).tolist() == [False, False, True, False, False]
    assert has_target(documents, replace(data, scalar_loss_mask=0.1)).tolist() == [True, True, True, False, True]


def test_a_reply_without_loss_is_never_a_target(tmp_path: Path) -> None:
    documents = DocumentSet([write_shard(tmp_path / "a", [([5, 6, 7], [4, 4, 4]), ([5, 6, 7], [1, 4, 4])])])
    data = Data(seq_length=8)
    assert int(Role.ASSISTANT_NO_LOSS) == 4
    assert has_target(documents, replace(data, scalar_loss_mask=0.1)).tolist() == [False, False]
    assert has_target(documents, replace(data, loss_alignment="input", scalar_loss_mask=0.1)).tolist() == [False, True]


def test_a_target_beyond_the_cut_does_not_count(documents: DocumentSet) -> None:
    cut = Data(seq_length=2)
    assert has_target(documents, cut).tolist() == [False, False, False, False, True]
    assert has_target(documents, replace(cut, overlong="split")).tolist() == [True, False, False, False, True]
