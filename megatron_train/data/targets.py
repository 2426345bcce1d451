"""Find the documents that have a target: a token with loss in the part of the document that is trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_train.config.settings import Data
from megatron_train.data.batch import LossRule
from megatron_train.data.document_set import DocumentSet
from pretokenizer.chat.roles import Role

CHUNK_TOKENS = 2**24
"""Tokens that are processed at the same time, to bound memory."""


def has_target(documents: DocumentSet, data: Data) -> NDArray[np.bool_]:
    """Return for each document whether it has a target, a token with loss, as an array [documents].

    With --overlong truncate, only the first seq_length + 1 tokens count, otherwise all: split and random_window train
    on every part.
    """
    rule, limit = LossRule.of(data), data.seq_length + 1 if data.overlong == "truncate" else None
    return np.concatenate([_of_roles(roles, sizes, rule, limit) for roles, sizes in documents.flat_roles()])


def _of_roles(
    roles: NDArray[np.integer], sizes: NDArray[np.integer], rule: LossRule, limit: int | None
) -> NDArray[np.bool_]:
    """Return for each document whether it has a target, as an array [documents].

    `roles` [tokens] are the roles of all documents joined, `sizes` [documents] their lengths, and `limit` the number of
    tokens at the beginning of a document that count.
    """
    sizes = sizes.astype(np.int64)
    ends = np.cumsum(sizes)
    found = np.zeros(len(sizes), dtype=bool)
    first = 0
    while first < len(sizes):
        start = int(ends[first] - sizes[first])
        last = max(first + 1, int(np.searchsorted(ends, start + CHUNK_TOKENS, side="right")))
        trained = has_loss(roles[start : int(ends[last - 1])], rule)
        before = np.concatenate([[0], np.cumsum(trained)])  # targets before each token of the chunk
        begin = ends[first:last] - sizes[first:last] - start
        used = sizes[first:last] if limit is None else np.minimum(sizes[first:last], limit)
        # Labels are all tokens but the first; with `input`, the positions are all tokens but the last.
        skip_first, skip_last = (1, 0) if rule.alignment == "label" else (0, 1)
        low, high = (at.clip(0, len(trained)) for at in (begin + skip_first, begin + used - skip_last))
        found[first:last] = (used >= 2) & (before[high] > before[low])
        first = last
    return found


def has_loss(roles: NDArray[np.integer], rule: LossRule) -> NDArray[np.bool_]:
    """Return for each token whether its role gives it a loss weight above 0, as an array of the shape of `roles`."""
    weighted = np.isin(roles, rule.loss_roles) | (rule.scalar_loss_mask > 0)
    return weighted & (roles != Role.ASSISTANT_NO_LOSS)
