"""Write a small shard from the training data of a run: the first documents in training order, shortened.

The small model has fewer token ids, so ids are folded into its vocabulary: id modulo the number of ids. Documents are
cut to windows of different lengths, so that packed rows hold several documents, and around their first target token,
so that each has loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_train.config.settings import Data
from megatron_train.data.batch import Document, LossRule, loss_weights
from megatron_train.data.sft_dataset import training_order
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.shard import ShardWriter

WINDOWS = (13, 64, 29, 47)
"""Lengths in tokens to which documents are cut, in turn."""
MOST_READ = 10_000
"""Maximum number of documents to read in search of target tokens."""


def write_sample(data: Data, seed: int, num_documents: int, vocab_size: int, prefix: Path) -> int:
    """Write at most `num_documents` documents of the training data to the shard `prefix`, and return their number.

    Each is cut to a window around its first target token, and its token ids are taken modulo `vocab_size`. Documents
    without a target token are left out. Raises ConfigError when no document has a target token, and ShardError for a
    shard that cannot be read.
    """
    documents, builder = training_order(data, seed)
    rule, written = LossRule.of(data), 0
    with ShardWriter(f"{prefix}-text", np.uint16) as text, ShardWriter(f"{prefix}-role", np.uint16) as role:
        for index in builder.order(min(len(builder.subset), MOST_READ)).tolist():
            document = documents.piece(index, 0, int(documents.lengths[index]))
            window = target_window(document, rule, WINDOWS[written % len(WINDOWS)])
            if window is not None and written < num_documents:
                text.add((document[0][window] % vocab_size).tolist())
                role.add(document[1][window].tolist())
                written += 1
    if not written:
        raise ConfigError(
            f"no training document has a token of loss_roles ({', '.join(data.loss_roles)}); check --loss_roles"
        )
    return written


def target_window(document: Document, rule: LossRule, length: int) -> slice | None:
    """Return the slice of at most `length` tokens of a document that begins shortly before its first target token.

    A target is a token with the document's highest loss weight under `rule`. Return None for a document without loss.
    """
    token_ids, role_ids = document
    if len(token_ids) < 2:
        return None
    weights = loss_weights(role_ids, rule)
    targets = np.flatnonzero(weights >= max(float(weights.max()), 1e-9))
    if not len(targets):
        return None
    start = max(0, min(int(targets[0]) - length // 4, len(token_ids) - length))
    return slice(start, start + length)
