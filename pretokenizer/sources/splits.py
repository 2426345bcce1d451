"""Train and val parts of a data set, index for index as the original draws them.

Both rules are restated here without their libraries: scikit-learn's `train_test_split` and torch's `random_split`. The
seeds are those of LAION-AI/Open-Assistant f1e6ed9.
"""

import math

import numpy as np
from numpy.typing import NDArray

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
