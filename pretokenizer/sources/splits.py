"""Split the records of a data set into train and val, with the same indices as Open-Assistant's code.

The two rules are scikit-learn's `train_test_split` and torch's `random_split`, without these libraries. The seeds are
those of LAION-AI/Open-Assistant f1e6ed9.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pretokenizer.config.yaml_config import ConfigError

SKLEARN_SEED = 666
TORCH_SEED = 287631038922
Indices = NDArray[np.int64]


def split_sklearn(count: int, val_split: float) -> tuple[Indices, Indices | None]:
    """Return the indices (train, val) that train_test_split(random_state=666) gives for `count` records.

    With val_split 0, train has all records in order and val is None. Raises ConfigError when train would be empty.
    """
    if val_split == 0:
        return np.arange(count), None
    num_val = math.ceil(val_split * count) if val_split < 1 else int(val_split)
    if count and num_val >= count:
        raise ConfigError(f"val_split {val_split:g} of {count} records leaves none for train; give a smaller one")
    permutation = np.random.RandomState(SKLEARN_SEED).permutation(count)
    return permutation[num_val:], permutation[:num_val]


def split_torch(count: int, val_split: float, seed: int = TORCH_SEED) -> tuple[Indices, Indices]:
    """Return the indices (train, val) that torch's random_split([1 - val_split, val_split]) gives for `count` records.

    Raises ConfigError for a val_split of 1 or more.
    """
    if val_split >= 1:
        raise ConfigError(f"val_split {val_split:g}: this data set needs a share below 1")
    lengths = [math.floor(count * share) for share in (1 - val_split, val_split)]
    for i in range(count - sum(lengths)):
        lengths[i % 2] += 1
    permutation = torch_permutation(count, seed)
    return permutation[: lengths[0]], permutation[lengths[0] :]


def torch_permutation(count: int, seed: int) -> Indices:
    """Return the permutation that torch.randperm(count) gives for a CPU generator with this seed.

    The generator is a 32-bit Mersenne twister.
    """
    order = list(range(count))
    if count > 1:
        draws = np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 2**32, size=count - 1, dtype=np.uint32)
        offsets = draws.astype(np.int64) % (count - np.arange(count - 1))
        for i, offset in enumerate(offsets.tolist()):
            order[i], order[i + offset] = order[i + offset], order[i]
    return np.array(order, dtype=np.int64)
