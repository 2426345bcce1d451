import numpy as np
import pytest

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.selection.sampling import TrainSampler, ValCutter


def entry(**keys: float) -> DatasetEntry:
    return DatasetEntry("x", **keys)  # type: ignore[arg-type]


def test_train_sampler_is_one_generator_over_the_data_sets() -> None:
    sampler = TrainSampler(42)
    documents = np.arange(100, 110)
    generator = np.random.RandomState(42)
    first, fraction = sampler.sample(documents, entry(fraction=0.35))
    assert first.tolist() == (100 + generator.choice(10, 3, replace=False)).tolist() and fraction == 0.35
    whole, fraction = sampler.sample(documents, entry())
    assert whole is documents and fraction == 1.0
    second, fraction = sampler.sample(documents, entry(size=4))
    assert second.tolist() == (100 + generator.choice(10, 4, replace=False)).tolist() and fraction == 0.4


def test_train_sampler_limits() -> None:
    documents = np.arange(10)
    assert TrainSampler(1).sample(documents, entry(max_train_set=3))[0].size == 3
    assert TrainSampler(1).sample(documents, entry(max_train_set=0))[0].size == 10
    assert TrainSampler(1).sample(documents, entry(fraction=0.2, size=9))[0].size == 2
    with pytest.raises(ConfigError, match="x: size 11 is more than its 10 train samples"):
        TrainSampler(1).sample(documents, entry(size=11))


def test_a_fraction_above_1_repeats_documents() -> None:
    documents = np.arange(10)
    twice, fraction = TrainSampler(1).sample(documents, entry(fraction=2))
    assert (twice.tolist(), fraction) == ([*range(10), *range(10)], 2.0)
    half = np.random.RandomState(1).permutation(10)[:5].tolist()
    assert TrainSampler(1).sample(documents, entry(fraction=2.5))[0].tolist() == [*range(10), *range(10), *half]
    cut, fraction = TrainSampler(1).sample(documents, entry(fraction=3, max_train_set=15))
    assert (cut.tolist(), fraction) == ([*range(10), *half], 1.5)
    assert TrainSampler(1).sample(documents[:0], entry(fraction=2))[0].tolist() == []


def test_val_cutter() -> None:
    documents = np.arange(50, 60)
    cutter = ValCutter(42, None)
    generator = np.random.RandomState(42)
    expected = (50 + generator.choice(10, 4, replace=False)).tolist()
    cut, is_cut = cutter.cut(documents, 4)
    assert (cut.tolist(), is_cut) == (expected, True)
    assert cutter.cut(documents, 10)[1] is False and cutter.cut(documents, 0)[1] is False
    assert ValCutter(42, 3).cut(documents, None)[0].tolist() == [50, 51, 52]
