"""Shards -> samples in training order: over-long documents, packing, evaluation sets. Index arithmetic only; pure of
ranks.

A *piece* is (document, start, length): the tokens of a document that one position run is made of. A *sample* is a row
of pieces: one when rows are padded, several when they are packed. Everything follows from the shards' sizes and the
seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_train.config.settings import Data
from megatron_train.data.batch import Document
from megatron_train.data.document_order import Indices, OrderBuilder, parse_blend, split_documents, training_paths
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.packing import pack_rows
from pretokenizer.config.yaml_config import ConfigError


@dataclass(frozen=True)
class Samples:
    """Rows of pieces. Row i is pieces row_offsets[i] to row_offsets[i + 1]."""

    documents: DocumentSet
    document: Indices
    start: Indices
    length: Indices
    row_offsets: Indices
    num_overlong: int = 0
    """Documents above seq_length + 1 tokens in one epoch."""
    documents_per_epoch: int = 0
    rows_per_epoch: float = 0.0

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    def row(self, index: int) -> list[Document]:
        pieces = range(int(self.row_offsets[index]), int(self.row_offsets[index + 1]))
        return [self.documents.piece(int(self.document[i]), int(self.start[i]), int(self.length[i])) for i in pieces]

    def num_positions(self) -> int:
        """Positions that hold a document, over all rows."""
        return int((self.length - 1).sum())


def training_samples(data: Data, num_samples: int, seed: int) -> Samples:
    """The first `num_samples` samples of the training order. A longer run has the same beginning."""
    paths, key = training_paths(data)
    blend = parse_blend(paths, key)
    documents = DocumentSet([prefix for _, prefix in blend])
    if not len(documents):
        raise ConfigError(f"{key}: {' '.join(paths)} holds no documents")
    builder = OrderBuilder(
        np.diff(documents.first), [weight for weight, _ in blend], None if data.train_data_path else data.split, seed
    )
    if data.packing:
        return _packed_training_samples(data, documents, builder, num_samples, seed)
    facts = _epoch_facts(documents, builder.subset, data)
    if not facts[-1]:
        raise ConfigError(f"{key}: no document of {' '.join(paths)} has two tokens" + _overlong_hint(data))
    order = builder.order(num_samples)
    kept = _pieces(documents.lengths, order, data, seed)
    while len(kept[0]) < num_samples:  # `drop` and documents without a label leave too few
        order = builder.order(2 * len(order))
        kept = _pieces(documents.lengths, order, data, seed)
    document, start, length = (column[:num_samples] for column in kept)
    return Samples(documents, document, start, length, np.arange(len(document) + 1), *facts)


def _overlong_hint(data: Data) -> str:
    return f" and at most seq_length + 1 = {data.seq_length + 1}" if data.overlong == "drop" else ""


def _epoch_facts(documents: DocumentSet, subset: Indices, data: Data) -> tuple[int, int, float]:
    """(over-long documents, documents, rows when each piece is one) of an epoch."""
    rows = len(_pieces(documents.lengths, subset, data, seed=0)[0])
    return int((documents.lengths[subset] > data.seq_length + 1).sum()), len(subset), float(rows)


def _packed_training_samples(
    data: Data, documents: DocumentSet, builder: OrderBuilder, num_samples: int, seed: int
) -> Samples:
    """Packs epoch by epoch, so that each epoch holds every document once, until there are `num_samples` rows."""
    columns: list[tuple[Indices, Indices, Indices]] = []
    rows_done, sizes, epoch_rows = 0, [np.zeros(1, dtype=np.int64)], []
    epoch, order = 0, builder.order(len(builder.subset))
    while rows_done < num_samples:
        document, start, length = _pieces(documents.lengths, order, data, seed + epoch)
        rows = pack_rows(length - 1, data.seq_length, data.packing_window, seed + epoch)
        if not rows:
            raise ConfigError("no document of the training data has two tokens" + _overlong_hint(data))
        flat = np.concatenate(rows)
        columns.append((document[flat], start[flat], length[flat]))
        sizes.append(np.asarray([len(row) for row in rows], dtype=np.int64))
        rows_done, epoch = rows_done + len(rows), epoch + 1
        epoch_rows.append(len(rows))
        order = builder.order(len(builder.subset) * (epoch + 1))[len(builder.subset) * epoch :]
    offsets = np.cumsum(np.concatenate(sizes))[: num_samples + 1]
    document, start, length = (np.concatenate(column)[: offsets[-1]] for column in zip(*columns, strict=True))
    overlong, per_epoch, _ = _epoch_facts(documents, builder.subset, data)
    return Samples(documents, document, start, length, offsets, overlong, per_epoch, float(np.mean(epoch_rows)))


def _pieces(lengths: Indices, order: Indices, data: Data, seed: int) -> tuple[Indices, Indices, Indices]:
    """(document, start, length) of what is trained on, in `order`; documents of fewer than two tokens have no label and
    go.
    """
    size, limit = lengths[order], data.seq_length + 1
    start, overlong = np.zeros_like(size), size > limit
    if data.overlong == "split":
        return _split_pieces(order, size, data.seq_length)
    if data.overlong == "random_window":
        room = np.maximum(size - limit, 0)
        start = (np.random.RandomState(seed).random_sample(len(order)) * (room + 1)).astype(np.int64)
    keep = size >= 2
    if data.overlong == "drop":
        keep &= ~overlong
    return order[keep], start[keep], np.minimum(size, limit)[keep]


def _split_pieces(order: Indices, size: Indices, seq_length: int) -> tuple[Indices, Indices, Indices]:
    """Every label once: consecutive pieces overlap by the one token that is label of the one and input of the next."""
    parts = np.maximum(0, -(-(size - 1) // seq_length))
    document, whole = np.repeat(order, parts), np.repeat(size, parts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)
    start = number * seq_length
    return document, start, np.minimum(whole - start, seq_length + 1)


def evaluation_samples(documents: DocumentSet, subset: Indices | None, data: Data) -> Samples:
    """One clean pass: every document once, in order, padded or packed as in training; over-long ones as `overlong`
    says.
    """
    order = np.arange(len(documents), dtype=np.int64) if subset is None else np.sort(subset)
    document, start, length = _pieces(documents.lengths, order, data, seed=0)
    facts = _epoch_facts(documents, order, data)
    if not data.packing:
        return Samples(documents, document, start, length, np.arange(len(document) + 1), *facts)
    rows = pack_rows(length - 1, data.seq_length, data.packing_window, seed=0)
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    offsets = np.cumsum([0] + [len(row) for row in rows])
    return Samples(documents, document[flat], start[flat], length[flat], offsets, *facts)


def validation_sets(data: Data, seed: int) -> dict[str, Samples]:
    """Samples of each validation set by name: those of valid_data_path, or the validation share of data_path."""
    if data.valid_data_path:
        return _named_sets(data.valid_data_path, data)
    return _split_part(data, seed, part=1, name="valid")


def test_sets(data: Data, seed: int) -> dict[str, Samples]:
    """As validation_sets, for the test data."""
    if data.test_data_path:
        return _named_sets(data.test_data_path, data)
    return _split_part(data, seed, part=2, name="test")


def _named_sets(paths: Sequence[str], data: Data) -> dict[str, Samples]:
    sets: dict[str, Samples] = {}
    for path in paths:
        name, _, prefix = path.rpartition("=")
        _add(sets, name or Path(prefix).name, evaluation_samples(DocumentSet([prefix]), None, data), prefix)
    return sets


def _add(sets: dict[str, Samples], name: str, samples: Samples, prefix: str) -> None:
    """Raises ConfigError when there is a set of this name already."""
    if name in sets:
        raise ConfigError(
            f"two sets to evaluate are called {name!r}, one of them {prefix}; give them as NAME=PREFIX"
            " (--valid_data_path, --test_data_path)"
        )
    sets[name] = samples


def _split_part(data: Data, seed: int, part: int, name: str) -> dict[str, Samples]:
    if data.train_data_path or not data.data_path:
        return {}
    sets: dict[str, Samples] = {}
    blend = parse_blend(data.data_path, "data_path")
    for _, prefix in blend:
        documents = DocumentSet([prefix])
        subset = split_documents(len(documents), data.split, np.random.RandomState(seed))[part]
        if len(subset):
            own_name = name if len(blend) == 1 else f"{name}:{Path(prefix).name}"
            _add(sets, own_name, evaluation_samples(documents, subset, data), prefix)
    return sets
