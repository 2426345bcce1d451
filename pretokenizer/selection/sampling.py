"""Draw training documents and shorten validation sets, with the same random choices as Open-Assistant's pretokenizer.

The choices depend only on the numbers of documents and the seeds. Source of the rules: LAION-AI/Open-Assistant f1e6ed9.
"""

import numpy as np
from numpy.typing import NDArray

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.config.yaml_config import ConfigError

Indices = NDArray[np.int64]


class TrainSampler:
    """Draws the training documents of each data set.

    All data sets share one random generator, so their order matters.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def sample(self, documents: Indices, entry: DatasetEntry) -> tuple[Indices, float]:
        """Return (the documents drawn, their share of all `documents` for the report).

        Documents are indices. The entry's `fraction`, `size` and `max_train_set` decide how many are drawn. A fraction
        above 1 repeats them: 2.5 gives all documents twice, and a random half. Raises ConfigError when `size` is above
        the number of documents.
        """
        count = documents.size
        fraction = 1.0
        if entry.fraction is not None:
            fraction = entry.fraction
        elif entry.size is not None:
            if entry.size > count:
                raise ConfigError(f"datasets: {entry.name}: size {entry.size} is more than its {count} train samples")
            fraction = entry.size / count if count else 1.0
        target = int(count * fraction)
        if entry.max_train_set and entry.max_train_set < target:
            target = entry.max_train_set
            fraction = target / count
        if target == count:
            return documents, fraction
        num_repeats, num_drawn = divmod(target, count)
        drawn = [documents[self._random.permutation(count)[:num_drawn]]] if num_drawn or not num_repeats else []
        return np.concatenate([*[documents] * num_repeats, *drawn]), fraction


class ValCutter:
    """Shortens the validation set of each data set.

    All data sets share one random generator, so their order matters.
    """

    def __init__(self, seed: int, eval_size: int | None) -> None:
        self._random = np.random.RandomState(seed)
        self._eval_size = eval_size

    def cut(self, documents: Indices, max_val_set: int | None) -> tuple[Indices, bool]:
        """Return (indices of the validation documents to keep, whether any were discarded).

        Keep at most `max_val_set` documents, chosen at random, and of these the first `eval_size`.
        """
        is_cut = False
        if max_val_set and documents.size > max_val_set:
            documents = documents[self._random.choice(documents.size, size=max_val_set, replace=False)]
            is_cut = True
        if self._eval_size and documents.size > self._eval_size:
            documents = documents[: self._eval_size]
            is_cut = True
        return documents, is_cut
