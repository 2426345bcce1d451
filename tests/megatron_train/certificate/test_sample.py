from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_train.certificate.sample import target_window, write_sample
from megatron_train.config.settings import Data
from megatron_train.data.batch import LossRule
from megatron_train.data.document_set import DocumentSet
from pretokenizer.config.yaml_config import ConfigError
from tests.conftest import toy_documents, write_shard

USER, ASSISTANT = 1, 2


def window(roles: list[int], length: int) -> tuple[int, int] | None:
    found = target_window((np.arange(len(roles)), np.array(roles)), LossRule(), length)
    return (found.start, found.stop) if found else None


def test_a_window_begins_shortly_before_the_first_target() -> None:
    assert window([USER] * 50 + [ASSISTANT] * 50, 16) == (45, 61)
    assert window([USER] * 2 + [ASSISTANT] * 50, 16) == (0, 16)
    assert window([USER] * 50 + [ASSISTANT] * 3, 16) == (37, 53)
    assert window([USER, ASSISTANT], 16) == (0, 16)
    assert window([USER] * 50, 16) is None
    assert window([ASSISTANT], 16) is None


def test_a_sample_has_targets_few_token_ids_and_several_lengths(tmp_path: Path) -> None:
    long = ([2000 + i for i in range(300)], [USER] * 200 + [ASSISTANT] * 100)
    silent = ([7] * 30, [USER] * 30)
    data = Data(train_data_path=(write_shard(tmp_path / "mine", [silent, *[long] * 20]),))
    assert write_sample(data, 1234, 8, 1000, tmp_path / "sample") == 8
    sample = DocumentSet([str(tmp_path / "sample")])
    assert sample.lengths.tolist() == [13, 64, 29, 47] * 2
    token_ids, role_ids = sample.piece(0, 0, 13)
    assert token_ids.tolist() == list(range(196, 209))
    assert role_ids.tolist() == [USER] * 4 + [ASSISTANT] * 9


def test_data_without_targets_is_an_error(tmp_path: Path) -> None:
    data = Data(train_data_path=(write_shard(tmp_path / "mine", toy_documents(3)),), loss_roles=("system",))
    with pytest.raises(ConfigError, match=r"no training document has a token of loss_roles \(system\)"):
        write_sample(data, 1234, 8, 1000, tmp_path / "sample")
