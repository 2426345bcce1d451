"""Turn documents into the arrays of one micro-batch, in numpy. Every position is a (token, label) pair of a document.

A document of n tokens fills n - 1 positions: tokens = document[:-1], labels = document[1:].

Padded, two documents [5 6 7 8] (roles 1 1 2 2) and [5 9] (roles 1 2), pad id 0, rows rounded up to 4:
    tokens       [[5 6 7 0]   labels [[6 7 8 0]   loss_mask [[0 1 1 0]   position_ids [[0 1 2 0]
                  [5 0 0 0]]          [9 0 0 0]]             [1 0 0 0]]                [0 0 1 2]]
Packed, the same two in one row of 6. Documents do not attend to each other, positions restart in each of them, and the
padding counts as a document of its own:
    tokens       [[5 6 7 5 0 0]]   labels     [[6 7 8 9 0 0]]   loss_mask [[0 1 1 1 0 0]]
    position_ids [[0 1 2 0 0 1]]   cu_seqlens [0 3 4 6]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megatron_train.config.settings import ALL_ROLES, LOSS_ROLES, Data
from pretokenizer.chat.roles import Role

Document = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Token ids [n] and role ids [n] of a document, or of a piece of it."""


@dataclass(frozen=True)
class LossRule:
    """Rule for which positions are trained on, and with which weight. Its fields are settings of settings.Data."""

    loss_roles: tuple[int, ...] = (Role.ASSISTANT,)
    """Ids of the roles whose tokens have loss weight 1."""
    alignment: Literal["label", "input"] = "label"
    """The setting `loss_alignment`: whether the role of a position's label counts, or that of its input token."""
    last_turn_only: bool = False
    scalar_loss_mask: float = 0.0

    @classmethod
    def of(cls, data: Data) -> LossRule:
        """Return the rule that the settings in `data` ask for."""
        names = list(LOSS_ROLES) if ALL_ROLES in data.loss_roles else data.loss_roles
        roles = tuple(int(LOSS_ROLES[role]) for role in names)
        return cls(roles, data.loss_alignment, data.last_turn_only, data.scalar_loss_mask)


@dataclass(frozen=True)
class Batch:
    """One micro-batch of b rows of s positions. Packed rows stand end to end in a single row (b = 1)."""

    tokens: NDArray[np.int64]
    """[b, s] token ids that the model reads."""
    labels: NDArray[np.int64]
    """[b, s] token ids to predict."""
    loss_mask: NDArray[np.float32]
    """[b, s] weight of each label in the loss."""
    position_ids: NDArray[np.int64]
    """[b, s] position within the document; padding starts again at 0."""
    num_tokens: int
    """Number of positions that belong to a document. Padding does not count."""
    squared_lengths: int
    """Sum of the squared document lengths. The cost of causal attention is proportional to it."""
    cu_seqlens: NDArray[np.int32] | None = None
    """[documents + 1] boundaries of the documents in the packed row; None for padded rows."""

    @property
    def loss_weight(self) -> float:
        """Sum of the loss weights of all positions."""
        return float(self.loss_mask.sum(dtype=np.float64))


def loss_weights(role_ids: NDArray[np.integer], rule: LossRule) -> NDArray[np.float32]:
    """Return the loss weight of each position of a document with `role_ids` [n], as an array [n - 1].

    Position i reads token i and predicts token i + 1; `rule.alignment` chooses the token whose role counts. Tokens of
    the role ASSISTANT_NO_LOSS always have weight 0.
    """
    trained = np.isin(role_ids, rule.loss_roles)
    if rule.last_turn_only and trained.any():
        last = int(np.flatnonzero(trained)[-1])
        before = np.flatnonzero(~trained[:last])
        trained[: (int(before[-1]) + 1) if len(before) else 0] = False
    weights = np.where(trained, np.float32(1.0), np.float32(rule.scalar_loss_mask))
    weights[role_ids == Role.ASSISTANT_NO_LOSS] = 0.0
    return weights[1:] if rule.alignment == "label" else weights[:-1]


def padded_batch(documents: Sequence[Document], width: int, pad_id: int, rule: LossRule) -> Batch:
    """Return a batch with one document in each row, right-padded to `width` positions.

    An empty document gives a row without loss.
    """
    rows = len(documents)
    tokens = np.full((rows, width), pad_id, dtype=np.int64)
    labels = np.full((rows, width), pad_id, dtype=np.int64)
    loss_mask = np.zeros((rows, width), dtype=np.float32)
    for row, (token_ids, role_ids) in enumerate(documents):
        filled = max(0, len(token_ids) - 1)
        tokens[row, :filled] = token_ids[:-1]
        labels[row, :filled] = token_ids[1:]
        loss_mask[row, :filled] = loss_weights(role_ids, rule)
    lengths = [max(0, len(token_ids) - 1) for token_ids, _ in documents]
    position_ids = np.stack([np.concatenate([np.arange(n), np.arange(width - n)]) for n in lengths])
    return Batch(tokens, labels, loss_mask, position_ids, sum(lengths), sum(n * n for n in lengths))


def padded_width(documents: Sequence[Document], seq_length: int, multiple: int) -> int:
    """Return the width of padded rows in positions, at most `seq_length`.

    It is the number of tokens of the longest document, rounded up to a multiple of `multiple`. As in Megatron-LLM, the
    tokens are rounded and not the positions, which are one fewer: 17 tokens at a multiple of 16 give 32 positions.
    """
    longest = max((len(token_ids) for token_ids, _ in documents), default=0)
    return min(seq_length, max(1, -(-longest // multiple)) * multiple)


def packed_batch(rows: Sequence[Sequence[Document]], seq_length: int, pad_id: int, rule: LossRule) -> Batch:
    """Return a batch whose single row holds `rows` end to end, each padded to `seq_length` positions.

    Raises ValueError when the documents of one of the rows do not fit into `seq_length`.
    """
    width = len(rows) * seq_length
    tokens, labels = np.full(width, pad_id, dtype=np.int64), np.full(width, pad_id, dtype=np.int64)
    loss_mask, position_ids = np.zeros(width, dtype=np.float32), np.zeros(width, dtype=np.int64)
    bounds, num_tokens, squared = [0], 0, 0
    for row, documents in enumerate(rows):
        at = row * seq_length
        for token_ids, role_ids in documents:
            end = at + len(token_ids) - 1
            tokens[at:end], labels[at:end] = token_ids[:-1], token_ids[1:]
            loss_mask[at:end] = loss_weights(role_ids, rule)
            position_ids[at:end] = np.arange(end - at)
            num_tokens, squared = num_tokens + end - at, squared + (end - at) ** 2
            bounds.append(end)
            at = end
        row_end = (row + 1) * seq_length
        if at > row_end:
            raise ValueError(
                f"packed row {row} holds {at - row * seq_length} positions, more than seq_length {seq_length}"
            )
        if at < row_end:
            position_ids[at:row_end] = np.arange(row_end - at)
            bounds.append(row_end)
    return Batch(
        tokens[None],
        labels[None],
        loss_mask[None],
        position_ids[None],
        num_tokens,
        squared,
        np.asarray(bounds, dtype=np.int32),
    )
