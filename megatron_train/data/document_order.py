"""The order in which documents are trained on. It depends on document counts, split, weights and the seed alone.

The order is Megatron-LLM's. The documents of a prefix are permuted and cut by `split`; then each epoch is a new
permutation:

    >>> train, valid, test = split_documents(10, "8,1,1", np.random.RandomState(1234))
    >>> train.tolist(), valid.tolist(), test.tolist()
    ([7, 2, 9, 1, 0, 8, 4, 5], [6], [3])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_train.config.settings import Data
from pretokenizer.config.yaml_config import ConfigError

Indices = NDArray[np.int64]


def split_documents(num_documents: int, split: str, rng: np.random.RandomState) -> tuple[Indices, Indices, Indices]:
    """Return the document numbers of training, validation and test: a permutation from `rng`, cut at shares of `split`.

    `split` has up to three shares, such as `969,30,1`; missing ones are 0. Raises ConfigError for any other text, for a
    negative share, and for shares without a positive sum.
    """
    try:
        shares = [float(part) for part in split.replace("/", ",").split(",") if part.strip()]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= 3 or not all(0 <= share < math.inf for share in shares) or sum(shares) == 0:
        raise ConfigError(f"split is {split!r}; give three shares with a positive sum, such as 969,30,1")
    shares += [0.0] * (3 - len(shares))
    bounds = [0]
    for share in shares:
        bounds.append(bounds[-1] + round(share / sum(shares) * num_documents))
    excess = bounds[-1] - num_documents
    bounds = [bounds[0]] + [bound - excess for bound in bounds[1:]]
    permutation = rng.permutation(num_documents).astype(np.int64)
    return permutation[bounds[0] : bounds[1]], permutation[bounds[1] : bounds[2]], permutation[bounds[2] : bounds[3]]


def epoch_order(subset: Indices, target: int, rng: np.random.RandomState) -> Indices:
    """Return `target` document numbers: a new permutation of `subset` for each epoch, the last one cut short.

    The result is empty if `subset` is.
    """
    if not len(subset):
        return subset
    parts, count = [], 0
    while count < target:
        parts.append(rng.permutation(subset))
        count += len(subset)
    return np.concatenate(parts)[:target] if parts else subset[:0]


def blend_order(weights: Sequence[float], num_samples: int) -> NDArray[np.int32]:
    """Return for each of `num_samples` samples the index of the data set that it comes from, [num_samples].

    `weights` has one weight for each data set. The next sample comes from the data set that is furthest behind its
    share of the samples so far; in a tie, from the first of them.
    """
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    taken = np.zeros(len(shares))
    order = np.empty(num_samples, dtype=np.int32)
    for i in range(num_samples):
        order[i] = component = int(np.argmax(shares * max(i, 1) - taken))
        taken[component] += 1
    return order


def parse_blend(paths: Sequence[str], key: str) -> list[tuple[float, str]]:
    """Turn `p` or `w1 p1 w2 p2 ...` into (weight, shard prefix) pairs. One prefix alone has weight 1.

    Raises ConfigError, which names the setting `key`, for any other form and for a weight that is not above 0.
    """
    if len(paths) == 1:
        return [(1.0, paths[0])]
    try:
        pairs = [(float(weight), prefix) for weight, prefix in zip(paths[::2], paths[1::2], strict=True)]
    except ValueError:
        raise ConfigError(
            f"{key}: {' '.join(paths)!r} is neither one prefix nor pairs `weight prefix weight prefix`"
        ) from None
    if not all(0 < weight < math.inf for weight, _ in pairs):
        raise ConfigError(f"{key}: {' '.join(paths)!r} has a weight that is not a number above 0")
    return pairs


def training_paths(data: Data) -> tuple[tuple[str, ...], str]:
    """Return the training data as the user gave it, and the setting's name: train_data_path or data_path."""
    return (data.train_data_path, "train_data_path") if data.train_data_path else (data.data_path, "data_path")


class OrderBuilder:
    """Orders the training documents of one or more weighted prefixes. A longer order begins with the shorter one.

    `counts` has the number of documents of each prefix. Documents are numbered through all prefixes. With `split`, only
    its training share of each prefix is ordered; with None, every document. `subset` holds the numbers of the documents
    to train on, and `part_sizes` how many of them each prefix has.
    """

    def __init__(self, counts: Indices, weights: Sequence[float], split: str | None, seed: int) -> None:
        self.weights, self.seed, self.split = list(weights), seed, split
        self.first, self.counts = np.cumsum([0, *counts]), counts
        parts = [self._component(i)[0] for i in range(len(weights))]
        self.part_sizes = [len(part) for part in parts]
        self.subset = np.concatenate(parts)

    def _component(self, index: int) -> tuple[Indices, np.random.RandomState]:
        rng = np.random.RandomState(self.seed)
        everything = np.arange(int(self.counts[index]), dtype=np.int64)
        subset = everything if self.split is None else split_documents(len(everything), self.split, rng)[0]
        return subset + int(self.first[index]), rng

    def order(self, target: int) -> Indices:
        """Return the numbers of the first `target` documents in training order."""
        shares = np.asarray(self.weights) / sum(self.weights)
        if len(shares) == 1:
            subset, rng = self._component(0)
            return epoch_order(subset, target, rng)
        parts = []
        for index, share in enumerate(shares):
            subset, rng = self._component(index)
            parts.append(epoch_order(subset, int(np.ceil(target * share * 1.005)), rng))
        which = blend_order(self.weights, target)
        out = np.empty(target, dtype=np.int64)
        for index, part in enumerate(parts):
            places = np.flatnonzero(which == index)
            out[places] = part[: len(places)]
        return out
