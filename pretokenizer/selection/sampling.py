"""Which documents are written, and in which order: splitting, sampling and capping, index for index as the original.

Everything here is a pure function of counts and seeds. Sources of the rules: LAION-AI/Open-Assistant f1e6ed9 (seeds and
order of draws), scikit-learn's train_test_split and torch's random_split, both restated without the libraries.
"""

import numpy as np
from numpy.typing import NDArray

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.config.yaml_config import ConfigError

Indices = NDArray[np.int64]


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
