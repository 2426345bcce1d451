from __future__ import annotations

from pathlib import Path

import pytest

from megatron_train.config.settings import Data
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.loader import BatchMaker
from megatron_train.data.sft_dataset import Samples, evaluation_samples
from pretokenizer.files.shard import ShardError
from tests.conftest import write_shard


def samples_of(folder: Path, data: Data) -> Samples:
    documents = [([5, 6, 7], [1, 2, 2]), ([8, 9], [1, 2])]
    return evaluation_samples(DocumentSet([write_shard(folder / "p", documents)]), None, data)


def test_rows_beyond_the_end_are_padding_without_loss(tmp_path: Path) -> None:
    data = Data(seq_length=8, pad_to_multiple=4)
    batch = BatchMaker(data, 0)(samples_of(tmp_path, data), range(1, 4), end=2)
    assert batch.tokens.tolist() == [[8, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.loss_mask.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert (batch.loss_weight, batch.num_tokens, batch.packed) == (1.0, 1, None)


def test_packed_rows_carry_their_boundaries(tmp_path: Path) -> None:
    data = Data(seq_length=4, packing=True)
    batch = BatchMaker(data, 0)(samples_of(tmp_path, data), range(0, 2), end=1)
    assert batch.packed is not None
    assert batch.packed.cu_seqlens_q.tolist() == [0, 2, 3, 4, 8]
    assert batch.packed.bounds == (0, 2, 3, 4, 8)
    assert batch.packed.position_ids is batch.position_ids
    assert (batch.packed.max_seqlen_q, batch.packed.qkv_format) == (4, "sbhd")
    assert tuple(batch.tokens.shape) == (1, 8)


@pytest.mark.parametrize("packing", [False, True])
def test_a_token_the_model_does_not_have_is_named(tmp_path: Path, packing: bool) -> None:
    data = Data(seq_length=4, packing=packing)
    samples = samples_of(tmp_path, data)
    BatchMaker(data, 0, vocab_size=10)(samples, range(len(samples)))
    with pytest.raises(ShardError) as error:
        BatchMaker(data, 0, vocab_size=9)(samples, range(len(samples)))
    assert str(error.value) == (
        f"{tmp_path}/p: token id 9, but the model has 9 vocabulary rows; the data was pretokenized for another model"
    )
