from __future__ import annotations

import numpy as np
import pytest

from megatron_train.data.batch import Document, LossRule, loss_weights, packed_batch, padded_batch, padded_width

FIRST: Document = (np.array([5, 6, 7, 8], np.uint16), np.array([1, 1, 2, 2], np.uint16))
SECOND: Document = (np.array([5, 9], np.uint16), np.array([1, 2], np.uint16))
EMPTY: Document = (np.zeros(0, np.int64), np.zeros(0, np.int64))
RULE = LossRule()


def test_padded_batch_gives_the_arrays_of_its_docstring() -> None:
    batch = padded_batch([FIRST, SECOND], 4, 0, RULE)
    assert batch.tokens.tolist() == [[5, 6, 7, 0], [5, 0, 0, 0]]
    assert batch.labels.tolist() == [[6, 7, 8, 0], [9, 0, 0, 0]]
    assert batch.loss_mask.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0], [0, 0, 1, 2]]
    assert batch.cu_seqlens is None
    assert (batch.num_tokens, batch.squared_lengths, batch.loss_weight) == (4, 10, 3.0)
    assert (batch.tokens.dtype, batch.loss_mask.dtype) == (np.int64, np.float32)


def test_packed_batch_gives_the_arrays_of_its_docstring() -> None:
    batch = packed_batch([[FIRST, SECOND]], 6, 0, RULE)
    assert batch.tokens.tolist() == [[5, 6, 7, 5, 0, 0]]
    assert batch.labels.tolist() == [[6, 7, 8, 9, 0, 0]]
    assert batch.loss_mask.tolist() == [[0, 1, 1, 1, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert batch.cu_seqlens.dtype == np.int32
    assert (batch.num_tokens, batch.squared_lengths, batch.loss_weight) == (4, 10, 3.0)


def test_packed_batch_lays_rows_end_to_end() -> None:
    batch = packed_batch([[SECOND, SECOND], [FIRST], []], 3, 99, RULE)
    assert batch.tokens.tolist() == [[5, 5, 99, 5, 6, 7, 99, 99, 99]]
    assert batch.labels.tolist() == [[9, 9, 99, 6, 7, 8, 99, 99, 99]]
    assert batch.loss_mask.tolist() == [[1, 1, 0, 0, 1, 1, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 0, 1, 2, 0, 1, 2]]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 1, 2, 3, 6, 9]


def test_packed_batch_refuses_a_row_that_overflows() -> None:
    with pytest.raises(ValueError, match="packed row 1 holds 4 positions, more than seq_length 3"):
        packed_batch([[SECOND], [FIRST, SECOND]], 3, 0, RULE)


def test_a_pad_id_that_is_also_a_real_token_keeps_its_loss() -> None:
    """The original masks labels equal to the pad id, so an end-of-text token with that id gets no loss there."""
    document: Document = (np.array([5, 0, 0]), np.array([1, 2, 2]))
    assert padded_batch([document], 4, 0, RULE).loss_mask.tolist() == [[1, 1, 0, 0]]


def test_an_empty_document_is_a_row_of_padding() -> None:
    batch = padded_batch([EMPTY, SECOND], 2, 7, RULE)
    assert batch.tokens.tolist() == [[7, 7], [5, 7]]
    assert batch.loss_mask.tolist() == [[0, 0], [1, 0]]
    assert (batch.num_tokens, batch.squared_lengths) == (1, 1)


ROLES = np.array([0, 1, 2, 2, 1, 2, 4, 4, 3, 2])
"""Role ids: system, user, assistant twice, user, assistant, assistant without loss twice, context, assistant."""


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (LossRule(), [0, 1, 1, 0, 1, 0, 0, 0, 1]),
        (LossRule(alignment="input"), [0, 0, 1, 1, 0, 1, 0, 0, 0]),
        (LossRule(loss_roles=(1, 2)), [1, 1, 1, 1, 1, 0, 0, 0, 1]),
        (LossRule(last_turn_only=True), [0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (LossRule(scalar_loss_mask=0.25), [0.25, 1, 1, 0.25, 1, 0, 0, 0.25, 1]),
        (LossRule(loss_roles=(2, 4)), [0, 1, 1, 0, 1, 0, 0, 0, 1]),
    ],
)
def test_loss_weights(rule: LossRule, expected: list[float]) -> None:
    """Role 4 gets no loss, even with scalar_loss_mask."""
    assert loss_weights(ROLES, rule).tolist() == expected


def test_loss_weights_last_turn_only_of_a_document_that_ends_with_the_user() -> None:
    rule = LossRule(last_turn_only=True)
    assert loss_weights(np.array([1, 2, 1, 2, 2, 1]), rule).tolist() == [0, 0, 1, 1, 0]
    assert loss_weights(np.array([2, 2, 2]), rule).tolist() == [1, 1]
    assert loss_weights(np.array([1, 1, 1]), rule).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([16], 16), ([17], 32), ([3, 33], 48), ([3], 16), ([], 16), ([100], 64), ([64], 64), ([49], 64)],
)
def test_padded_width_rounds_the_documents_own_length_as_the_original(sizes: list[int], expected: int) -> None:
    documents: list[Document] = [(np.zeros(size, np.int64), np.zeros(size, np.int64)) for size in sizes]
    assert padded_width(documents, seq_length=64, multiple=16) == expected


def test_padded_width_never_exceeds_seq_length() -> None:
    document: Document = (np.zeros(60, np.int64), np.zeros(60, np.int64))
    assert padded_width([document], seq_length=50, multiple=16) == 50
