"""Turn shards into samples in training order, with over-long documents and packing, and into evaluation sets.

A *piece* is (document, start, length): consecutive tokens of a document. A *sample* is a row of pieces: one piece when
rows are padded, several when they are packed. Which pieces form which sample depends on the document lengths and the
seed, and not on the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from megatron_train.config.settings import ALL_ROLES, Data
from megatron_train.data.batch import Document
from megatron_train.data.document_order import Indices, OrderBuilder, parse_blend, split_documents, training_paths
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.packing import pack_rows
from megatron_train.data.targets import has_target
from pretokenizer.config.yaml_config import ConfigError


@dataclass(frozen=True)
class EpochFacts:
    """Numbers of documents and rows in one epoch, which is one pass over the training data or an evaluation set."""

    num_overlong: int = 0
    """Number of documents of more than seq_length + 1 tokens."""
    num_without_target: int = 0
    """Number of documents without loss, because none of the tokens that are trained on has a role of loss_roles.

    Documents that `--overlong drop` leaves out do not count.
    """
    documents_per_epoch: int = 0
    """Number of documents, also of those that are left out as too long or too short."""
    rows_per_epoch: float = 0.0
    """Number of samples; for packed rows, the mean over the epochs that were packed."""


@dataclass(frozen=True)
class Samples(EpochFacts):
    """Rows of pieces in the order of training or evaluation. A piece is a run of consecutive tokens of one document.

    Row i holds the pieces from row_offsets[i] up to but not including row_offsets[i + 1].
    """

    documents: DocumentSet = field(kw_only=True)
    document: Indices = field(kw_only=True)
    """[pieces] number of the document that each piece comes from."""
    start: Indices = field(kw_only=True)
    """[pieces] index of the piece's first token in its document."""
    length: Indices = field(kw_only=True)
    """[pieces] number of tokens of each piece."""
    row_offsets: Indices = field(kw_only=True)
    """[rows + 1] number of the first piece of each row, and at the end the number of pieces."""

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    def row(self, index: int) -> list[Document]:
        """Return the pieces of row `index`, each as (token_ids, role_ids)."""
        pieces = range(int(self.row_offsets[index]), int(self.row_offsets[index + 1]))
        return [self.documents.piece(int(self.document[i]), int(self.start[i]), int(self.length[i])) for i in pieces]

    def num_positions(self) -> int:
        """Return the number of positions of all rows that belong to a document. Padding does not count."""
        return int((self.length - 1).sum())


def open_documents(prefixes: Sequence[str], data: Data) -> DocumentSet:
    """Open the shards of `prefixes`. Raises ConfigError when a shard has no roles but --loss_roles selects by role."""
    documents = DocumentSet(prefixes)
    if documents.without_roles and ALL_ROLES not in data.loss_roles:
        raise ConfigError(
            f"{documents.without_roles[0]}: its shard has no roles, so loss_roles {' '.join(data.loss_roles)} selects "
            f"nothing; add --loss_roles {ALL_ROLES} to train on every token"
        )
    return documents


def training_samples(data: Data, num_samples: int, seed: int) -> Samples:
    """Return the first `num_samples` samples in training order. A larger number gives the same samples first.

    Raises ConfigError when there is nothing to train on.
    """
    documents, builder = training_order(data, seed)
    facts = _epoch_facts(documents, builder.subset, data)
    if data.packing:
        return _packed_training_samples(data, documents, builder, num_samples, seed)
    if not facts.rows_per_epoch:
        raise ConfigError("no document of the training data has two tokens" + _overlong_hint(data))
    order = builder.order(num_samples)
    kept = _pieces(documents.lengths, order, data, seed)
    while len(kept[0]) < num_samples:  # `drop`, and documents without a label, leave too few
        order = builder.order(2 * len(order))
        kept = _pieces(documents.lengths, order, data, seed)
    document, start, length = (column[:num_samples] for column in kept)
    return _samples(documents, (document, start, length), np.arange(len(document) + 1), facts)


def training_order(data: Data, seed: int) -> tuple[DocumentSet, OrderBuilder]:
    """Return the documents of the training prefixes, and the OrderBuilder of those among them to train on.

    Raises ConfigError naming a prefix without documents for training.
    """
    paths, key = training_paths(data)
    blend = parse_blend(paths, key)
    documents = open_documents([prefix for _, prefix in blend], data)
    split, counts = None if data.train_data_path else data.split, np.diff(documents.first)
    builder = OrderBuilder(counts, [weight for weight, _ in blend], split, seed)
    for (_, prefix), total, left in zip(blend, counts, builder.part_sizes, strict=True):
        if not total:
            raise ConfigError(f"{key}: {prefix} holds no documents; leave it out")
        if not left:
            raise ConfigError(
                f"{key}: --split {split} leaves none of the {total} documents of {prefix} for training; give another "
                "--split, or the shard as --train_data_path"
            )
    return documents, builder


def rows_per_epoch(data: Data, seed: int) -> float:
    """Return the number of samples in the first epoch of training.

    Raises ConfigError when there is nothing to train on.
    """
    return training_samples(data, 1, seed).rows_per_epoch


def _samples(
    documents: DocumentSet, pieces: tuple[Indices, Indices, Indices], row_offsets: Indices, facts: EpochFacts
) -> Samples:
    document, start, length = pieces
    return Samples(
        **vars(facts), documents=documents, document=document, start=start, length=length, row_offsets=row_offsets
    )


def _overlong_hint(data: Data) -> str:
    return f" and at most seq_length + 1 = {data.seq_length + 1}" if data.overlong == "drop" else ""


def _epoch_facts(documents: DocumentSet, subset: Indices, data: Data) -> EpochFacts:
    """Return the facts of an epoch over the document numbers `subset`. Each piece counts as one row."""
    rows = len(_pieces(documents.lengths, subset, data, seed=0)[0])
    overlong = documents.lengths[subset] > data.seq_length + 1
    trained = has_target(documents, data)[subset]
    if data.overlong == "drop":
        trained = trained | overlong  # these are counted as over-long
    return EpochFacts(int(overlong.sum()), int((~trained).sum()), len(subset), float(rows))


def _packed_training_samples(
    data: Data, documents: DocumentSet, builder: OrderBuilder, num_samples: int, seed: int
) -> Samples:
    """Return the first `num_samples` packed rows in training order.

    Each epoch is packed by itself, so that it holds every document once.
    """
    columns: list[tuple[Indices, Indices, Indices]] = []
    epoch_rows: list[int] = []
    sizes, rows_done = [np.zeros(1, dtype=np.int64)], 0
    size = len(builder.subset)
    order = builder.order(size)
    while rows_done < num_samples:
        epoch = len(epoch_rows)
        if len(order) < size * (epoch + 1):
            order = builder.order(2 * len(order))  # the beginning stays the same; doubling keeps the work linear
        document, start, length = _pieces(
            documents.lengths, order[size * epoch : size * (epoch + 1)], data, seed + epoch
        )
        rows = pack_rows(length - 1, data.seq_length, data.packing_window, seed + epoch)
        if not rows:
            raise ConfigError("no document of the training data has two tokens" + _overlong_hint(data))
        flat = np.concatenate(rows)
        columns.append((document[flat], start[flat], length[flat]))
        sizes.append(np.asarray([len(row) for row in rows], dtype=np.int64))
        epoch_rows.append(len(rows))
        rows_done += len(rows)
    offsets = np.cumsum(np.concatenate(sizes))[: num_samples + 1]
    document, start, length = (np.concatenate(column)[: offsets[-1]] for column in zip(*columns, strict=True))
    facts = replace(_epoch_facts(documents, builder.subset, data), rows_per_epoch=float(np.mean(epoch_rows)))
    return _samples(documents, (document, start, length), offsets, facts)


def _pieces(lengths: Indices, order: Indices, data: Data, seed: int) -> tuple[Indices, Indices, Indices]:
    """Return arrays (document, start, length) of the pieces to train on, for the document numbers `order`.

    `data.overlong` decides about long documents. A document of fewer than two tokens has no label and gives no piece.
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
    """Return arrays (document, start, length) of the pieces of all documents, of at most seq_length + 1 tokens each.

    The last token of a piece is the first of the next one, so that each label counts once.
    """
    parts = np.maximum(0, -(-(size - 1) // seq_length))
    document, whole = np.repeat(order, parts), np.repeat(size, parts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)
    start = number * seq_length
    return document, start, np.minimum(whole - start, seq_length + 1)


def evaluation_samples(documents: DocumentSet, subset: Indices | None, data: Data) -> Samples:
    """Return the samples of an evaluation set, which hold each document of `subset` once.

    `subset` has document numbers; None means all documents. Rows are padded or packed as in training. Padded rows are
    in ascending order of the numbers. `data.overlong` decides about long documents. The result has no rows if no
    document has two tokens.
    """
    order = np.arange(len(documents), dtype=np.int64) if subset is None else np.sort(subset)
    document, start, length = _pieces(documents.lengths, order, data, seed=0)
    facts = _epoch_facts(documents, order, data)
    if not data.packing:
        return _samples(documents, (document, start, length), np.arange(len(document) + 1), facts)
    rows = pack_rows(length - 1, data.seq_length, data.packing_window, seed=0)
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    offsets = np.cumsum([0] + [len(row) for row in rows])
    return _samples(documents, (document[flat], start[flat], length[flat]), offsets, facts)


def validation_sets(data: Data, seed: int) -> dict[str, Samples]:
    """Return the samples of each validation set by its name: from valid_data_path, else the share of data_path.

    Return {} when neither is set, and for a share without documents. Raises ConfigError when two sets have the same
    name or a set has nothing to evaluate.
    """
    if data.valid_data_path:
        return _named_sets(data.valid_data_path, data)
    return _split_part(data, seed, part=1, name="valid")


def test_sets(data: Data, seed: int) -> dict[str, Samples]:
    """Return the samples of each test set by its name: from test_data_path, else the share of data_path.

    Return {} when neither is set, and for a share without documents. Raises ConfigError when two sets have the same
    name or a set has nothing to evaluate.
    """
    if data.test_data_path:
        return _named_sets(data.test_data_path, data)
    return _split_part(data, seed, part=2, name="test")


def _named_sets(paths: Sequence[str], data: Data) -> dict[str, Samples]:
    """Return the evaluation set of each of `paths`, `name=prefix` or a prefix, whose last part is then the name."""
    sets: dict[str, Samples] = {}
    for path in paths:
        name, _, prefix = path.rpartition("=")
        _add(sets, name or Path(prefix).name, evaluation_samples(open_documents([prefix], data), None, data), prefix)
    return sets


def _add(sets: dict[str, Samples], name: str, samples: Samples, prefix: str) -> None:
    """Add an evaluation set to `sets`. Raises ConfigError when its name is taken or it has nothing to evaluate."""
    if name in sets:
        raise ConfigError(
            f"two sets to evaluate are called {name!r}, one of them {prefix}; give them as NAME=PREFIX"
            " (--valid_data_path, --test_data_path)"
        )
    if not len(samples):
        raise ConfigError(f"{prefix}: no document to evaluate has two tokens; leave it out, or give --eval_iters 0")
    sets[name] = samples


def _split_part(data: Data, seed: int, part: int, name: str) -> dict[str, Samples]:
    """Return the evaluation sets that `data.split` cuts from each prefix of data_path.

    `part` is 1 for validation and 2 for test. A set is called `name`, or `name:PREFIX` if there are several prefixes.
    """
    if data.train_data_path or not data.data_path:
        return {}
    sets: dict[str, Samples] = {}
    blend = parse_blend(data.data_path, "data_path")
    for _, prefix in blend:
        documents = open_documents([prefix], data)
        subset = split_documents(len(documents), data.split, np.random.RandomState(seed))[part]
        if len(subset):
            own_name = name if len(blend) == 1 else f"{name}:{Path(prefix).name}"
            _add(sets, own_name, evaluation_samples(documents, subset, data), prefix)
    return sets
