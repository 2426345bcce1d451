"""Count the documents, rows, tokens and FLOPs of a run, from its shards if they exist, else from published figures.

The length of each document is known only from the shards. Without them, lengths are assumed to follow an exponential
distribution with the known mean. The longest of n documents then has mean x (1 + 1/2 + ... + 1/n) tokens on average,
and the mean of the squared lengths is 2 x mean^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_train.config.in_force import with_iterations
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import Data, TrainConfig
from megatron_train.data.document_order import parse_blend, split_documents
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.sft_dataset import training_samples
from megatron_train.report.flops import model_flops
from pretokenizer.config.paths import shipped_configs
from pretokenizer.config.yaml_config import ConfigError, load_yaml

CARDS = shipped_configs() / "cards.yaml"
PACKING_EFFICIENCY = 0.995
"""Share of a packed row's positions that hold documents, measured on chat data with rows of 4,096 positions."""


@dataclass(frozen=True)
class DataFacts:
    """The number of documents in one epoch of training data, and statistics of their lengths in tokens.

    `mean_tokens` and `mean_square`, the mean of the squared lengths, are NaN when lengths are unknown. `longest` is
    None unless the shards were read. Lengths from the shards are cut to seq_length + 1 tokens.
    """

    source: str
    """Where the figures come from, in words, such as `read from the shards`."""
    documents: int
    mean_tokens: float
    mean_square: float
    longest: int | None = None

    def positions(self) -> float:
        """Return how many positions a document takes in a row on average: one less than its tokens."""
        return self.mean_tokens - 1


@dataclass(frozen=True)
class Workload:
    """The amount of work in a training run: its iterations, and the tokens and FLOPs of each.

    `rows_per_epoch` and `epochs` are None when the number of training rows is unknown.
    """

    global_batch_size: int
    iterations: int
    rows_per_epoch: float | None
    epochs: float | None
    tokens_per_iteration: float
    """Positions of the global batch that hold documents, or all positions when document lengths are unknown."""
    positions_per_iteration: float
    """All positions of the global batch that the model computes, padding included."""
    flops_per_iteration: float
    """FLOPs of one iteration over the computed positions, padding included."""

    @property
    def useful(self) -> float:
        """Share of the computed positions that hold documents."""
        return self.tokens_per_iteration / self.positions_per_iteration


def published_facts(prefix: str) -> dict[str, Any] | None:
    """Return the figures that configs/cards.yaml publishes about the data of the shard `prefix`.

    They include the vocabulary size and the names of the model card and its training stage, and for some cards the
    numbers of documents and tokens. Return None for a shard that the file does not name, and without the file.
    """
    if not CARDS.is_file():
        return None
    for card, entry in load_yaml(CARDS).items():
        for stage, facts in entry["stages"].items():
            if Path(prefix).name in facts["shards"]:
                return {"card": card, "stage": stage, "vocab_size": entry["vocab_size"]} | facts
    return None


def data_facts(data: Data, seed: int, documents: int | None, tokens: int | None) -> DataFacts | None:
    """Return the document count and length statistics of the training split, or None when they are unknown.

    `documents` and `tokens` are the user's figures for all the data, before `data.split` divides it. `tokens` gives
    only the mean length, so it has no effect alone. Without `documents`, the shards are read if all of them exist.
    Otherwise the published figures are taken. Raises ConfigError when the shards hold no document to train on.
    """
    paths, key = (data.train_data_path, "train_data_path") if data.train_data_path else (data.data_path, "data_path")
    prefixes = [prefix for _, prefix in parse_blend(paths, key)] if paths else []
    if documents is not None:
        mean = tokens / documents if tokens else float("nan")
        return _assumed("as given", _trained_share(documents, data, seed), mean)
    if prefixes and all(Path(f"{prefix}-text.idx").is_file() for prefix in prefixes):
        return _measured(prefixes, data, seed)
    published = published_facts(prefixes[0]) if len(prefixes) == 1 else None
    if published and "documents" in published:
        mean = published["tokens"] / published["documents"] if "tokens" in published else float("nan")
        count = _trained_share(published["documents"], data, seed)
        return _assumed(f"published for {published['card']} {published['stage']}", count, mean)
    return None


def _trained_share(documents: int, data: Data, seed: int) -> int:
    """Return how many of `documents` are trained on: all of train_data_path, or the training share of data_path."""
    if data.train_data_path:
        return documents
    return len(split_documents(documents, data.split, np.random.RandomState(seed))[0])


def _assumed(source: str, documents: int, mean: float) -> DataFacts:
    return DataFacts(source, documents, mean, 2 * mean**2)


def _measured(prefixes: list[str], data: Data, seed: int) -> DataFacts:
    """Return the facts about the training documents of the shards `prefixes`, with lengths cut to seq_length + 1."""
    lengths = []
    for prefix in prefixes:
        own = DocumentSet([prefix]).lengths
        if not data.train_data_path:
            own = own[split_documents(len(own), data.split, np.random.RandomState(seed))[0]]
        lengths.append(np.minimum(own, data.seq_length + 1))
    every = np.concatenate(lengths).astype(np.float64)
    if not len(every):
        raise ConfigError(f"{' '.join(prefixes)}: no documents")
    return DataFacts("read from the shards", len(every), every.mean(), (every**2).mean(), int(every.max()))


def workload(config: TrainConfig, model: ModelConfig, facts: DataFacts | None, layout: ParallelLayout) -> Workload:
    """Return the iterations of the run, and the tokens and FLOPs of each.

    Without `facts`, or without document lengths in them, every row counts as full. Raises ConfigError when train_iters
    is not set and the length of an epoch is unknown.
    """
    rows = layout.global_batch_size(config.batch)
    length, per_row = config.data.seq_length, 1.0
    known = facts is not None and facts.mean_tokens == facts.mean_tokens
    if facts is None or not known:
        row_positions = row_tokens = float(length)
        squared = float(length) ** 2
        rows_per_epoch = float(facts.documents) if facts and not config.data.packing else None
    elif config.data.packing:
        rows_per_epoch = _packed_rows(config, facts)
        per_row = facts.documents / rows_per_epoch
        row_positions, row_tokens = float(length), facts.positions() * per_row
        squared = facts.mean_square * per_row
    else:
        rows_per_epoch = float(facts.documents)
        row_tokens, row_positions = facts.positions(), _padded_length(config, facts)
        squared = facts.mean_square * (row_positions / row_tokens) ** 2
    if rows_per_epoch:
        config = with_iterations(config, layout, rows_per_epoch)
    if not config.batch.train_iters:
        raise ConfigError("train_iters: the length of an epoch is not known; give --train_iters N, or the shards")
    return Workload(
        global_batch_size=rows,
        iterations=config.batch.train_iters,
        rows_per_epoch=rows_per_epoch,
        epochs=config.batch.train_iters * rows / rows_per_epoch if rows_per_epoch else None,
        tokens_per_iteration=rows * row_tokens,
        positions_per_iteration=rows * row_positions,
        flops_per_iteration=model_flops(model, round(rows * row_positions), round(rows * squared)),
    )


def _packed_rows(config: TrainConfig, facts: DataFacts) -> float:
    """Return the number of packed rows in an epoch.

    If the shards exist, the number is exact: their documents are packed as in training. Otherwise it is estimated from
    PACKING_EFFICIENCY.
    """
    if facts.longest is not None:
        return training_samples(config.data, 1, config.batch.seed).rows_per_epoch
    return facts.documents * facts.positions() / config.data.seq_length / PACKING_EFFICIENCY


def _padded_length(config: TrainConfig, facts: DataFacts) -> float:
    """Estimate the mean length of a padded row in positions. The longest document of a micro-batch sets its length."""
    harmonic = sum(1 / n for n in range(1, config.batch.micro_batch_size + 1))
    longest = facts.longest or config.data.seq_length
    return min(float(longest), config.data.seq_length, facts.positions() * harmonic + config.data.pad_to_multiple / 2)


def bubble_fraction(pipeline: int, virtual: int, micro_batches: int) -> float:
    """Return the share of a step that a pipeline stage waits for others: (p - 1) / (m v + p - 1).

    p is the number of stages, `pipeline`; v the model chunks per stage, `virtual`; m the `micro_batches` of the step.

    >>> round(bubble_fraction(4, 1, 32), 3)
    0.086
    """
    return (pipeline - 1) / (micro_batches * virtual + pipeline - 1)
