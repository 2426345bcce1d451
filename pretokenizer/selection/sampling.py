"""Which documents are written, and in which order: splitting, sampling and capping, index for index as the original.

Everything here is a pure function of counts and seeds. Sources of the rules: LAION-AI/Open-Assistant f1e6ed9 (seeds and
order of draws), scikit-learn's train_test_split and torch's random_split, both restated without the libraries.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.config.yaml_config import ConfigError

SKLEARN_SEED = 666
TORCH_SEED = 287631038922
Indices = NDArray[np.int64]


def split_sklearn(count: int, val_split: float) -> tuple[Indices, Indices | None]:
    """(train, val) of `count` records as train_test_split(random_state=666) gives them; val_split 0 = no val,
    unshuffled.

    Raises ConfigError when nothing would be left to train on.
    """
    if val_split == 0:
        return np.arange(count), None
    num_val = math.ceil(val_split * count) if val_split < 1 else int(val_split)
    if count and num_val >= count:
        raise ConfigError(f"val_split {val_split:g} of {count} records leaves none for train; lower it")
    permutation = np.random.RandomState(SKLEARN_SEED).permutation(count)
    return permutation[num_val:], permutation[:num_val]


def split_torch(count: int, val_split: float, seed: int = TORCH_SEED) -> tuple[Indices, Indices]:
    """(train, val) of `count` records as torch's random_split([1 - val_split, val_split]) gives them."""
    if val_split >= 1:
        raise ConfigError(f"val_split {val_split:g}: this data set takes a share below 1")
    lengths = [math.floor(count * share) for share in (1 - val_split, val_split)]
    for i in range(count - sum(lengths)):
        lengths[i % 2] += 1
    permutation = torch_permutation(count, seed)
    return permutation[: lengths[0]], permutation[lengths[0] :]


def torch_permutation(count: int, seed: int) -> Indices:
    """torch.randperm(count) of a CPU generator with that seed: the 32-bit Mersenne twister, swap by swap."""
    order = list(range(count))
    if count > 1:
        draws = np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 2**32, size=count - 1, dtype=np.uint32)
        offsets = draws.astype(np.int64) % (count - np.arange(count - 1))
        for i, offset in enumerate(offsets.tolist()):
            order[i], order[i + offset] = order[i + offset], order[i]
    return np.array(order, dtype=np.int64)


@dataclass(frozen=True)
class Selection:
    """Documents of one data set in one split, in writing order."""

    documents: Indices
    """Into the data set's documents."""
    available: int
    """Number before sampling."""
    is_cut: bool
    """Whether the original would show it as a Subset because max_val_set or eval_size applied."""

    @property
    def fraction(self) -> float:
        """Share of the available documents; an empty set counts as whole."""
        return self.documents.size / self.available if self.available else 1.0


class TrainSampler:
    """Draws the train documents of each data set; one generator advances over the data sets that need it."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def sample(self, documents: Indices, entry: DatasetEntry) -> tuple[Indices, float]:
        """The documents to write and the fraction that the report shows."""
        count = documents.size
        fraction = 1.0
        if entry.fraction is not None:
            fraction = min(1.0, entry.fraction)
        elif entry.size is not None:
            if entry.size > count:
                raise ConfigError(f"datasets: {entry.name}: size {entry.size} is more than its {count} train samples")
            fraction = entry.size / count if count else 1.0
        target = int(count * fraction)
        if entry.max_train_set and entry.max_train_set < target:
            target = entry.max_train_set
            fraction = target / count
        if target >= count:
            return documents, fraction
        return documents[self._random.permutation(count)[:target]], fraction


class ValCutter:
    """Cuts val parts; numpy's global generator of the original, seeded once, drawn from in data set order."""

    def __init__(self, seed: int, eval_size: int | None) -> None:
        self._random = np.random.RandomState(seed)
        self._eval_size = eval_size

    def cut(self, documents: Indices, max_val_set: int | None) -> tuple[Indices, bool]:
        """The val documents to keep, and whether any limit applied."""
        is_cut = False
        if max_val_set and documents.size > max_val_set:
            documents = documents[self._random.choice(documents.size, size=max_val_set, replace=False)]
            is_cut = True
        if self._eval_size and documents.size > self._eval_size:
            documents = documents[: self._eval_size]
            is_cut = True
        return documents, is_cut
