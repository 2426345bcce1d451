"""The splits equal those of torch and scikit-learn, and literal indices."""

from typing import Any

import numpy as np
import pytest

from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.sources.splits import split_sklearn, split_torch, torch_permutation


def test_sklearn_split_literally() -> None:
    train, val = split_sklearn(10, 0.25)
    # RandomState(666).permutation(10) = 3 2 8 ...: its first ceil(2.5) entries are val, the others train, in this order
    expected = np.random.RandomState(666).permutation(10).tolist()
    assert val is not None
    assert (val.tolist(), train.tolist()) == (expected[:3], expected[3:])


def test_sklearn_counts_of_the_card() -> None:
    sizes = {}
    for name, count, share in (("orca", 328906, 0.01), ("dolly", 60022, 0.05), ("leet", 23407, 0.05)):
        train, _ = split_sklearn(count, share)
        sizes[name] = train.size
    assert sizes == {"orca": 325616, "dolly": 57020, "leet": 22236}


def test_sklearn_special_cases() -> None:
    train, val = split_sklearn(4, 0)
    assert (train.tolist(), val) == ([0, 1, 2, 3], None)
    assert split_sklearn(5, 2)[0].size == 3
    with pytest.raises(ConfigError, match="leaves none for train"):
        split_sklearn(1, 0.2)


def test_sklearn_itself_agrees() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    train, val = selection.train_test_split(list(range(101)), test_size=0.13, random_state=666, shuffle=True)
    ours = split_sklearn(101, 0.13)
    assert ours[1] is not None
    assert (ours[0].tolist(), ours[1].tolist()) == (train, val)


@pytest.mark.parametrize(
    ("count", "share"), [(0, 0.2), (1, 0.2), (2, 0.05), (10, 0.05), (101, 0.2), (999, 0.33), (9846, 0.05), (7, 0)]
)
@pytest.mark.filterwarnings("ignore:Length of split")
def test_torch_split_is_random_split(count: int, share: float) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import random_split

    generator = torch.Generator()
    generator.manual_seed(287631038922)
    parts: Any = random_split(range(count), [1 - share, share], generator=generator)  # type: ignore[arg-type]
    expected = [list(part.indices) for part in parts]
    assert [part.tolist() for part in split_torch(count, share)] == expected


@pytest.mark.parametrize("seed", [0, 42, 287631038922])
def test_torch_permutation_is_randperm(seed: int) -> None:
    torch = pytest.importorskip("torch")
    for count in (1, 2, 10, 1000):
        expected = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        assert torch_permutation(count, seed).tolist() == expected


def test_torch_permutation_literally() -> None:
    assert sorted(torch_permutation(5, 287631038922).tolist()) == [0, 1, 2, 3, 4]
    assert torch_permutation(0, 1).tolist() == []
