"""The loss of single documents by torch's own cross-entropy, to compare a run with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from megatron_train.data.batch import Document
from megatron_train.data.document_set import DocumentSet
from megatron_train.run import Run


def losses_one_by_one(run: Run, documents: list[Document]) -> tuple[Tensor, int, int]:
    """Return summed loss, targets and right predictions of the documents one by one, by torch's cross-entropy."""
    total, targets, right = torch.zeros(()), 0, 0
    for tokens, roles in documents:
        ids = torch.tensor(tokens.astype(np.int64))[None]
        logits = run.chunks[0](ids[:, :-1], torch.arange(ids.shape[1] - 1)[None], None)
        wanted = torch.tensor(roles[1:].astype(np.int64)) == 2
        picked, labels = logits[0][wanted], ids[0, 1:][wanted]
        total = total + torch.nn.functional.cross_entropy(picked, labels, reduction="sum")
        targets, right = targets + len(labels), right + int((picked.argmax(-1) == labels).sum())
    return total, targets, right


def documents_of(prefix: str) -> list[Document]:
    """Return all documents of a shard."""
    documents = DocumentSet([prefix])
    return [documents.piece(index, 0, int(size)) for index, size in enumerate(documents.lengths)]
