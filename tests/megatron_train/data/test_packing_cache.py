"""The packing plan on disk. `planned_samples` must always give the same samples as `training_samples`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.flags import config_from_settings
from megatron_train.data import packing_cache
from megatron_train.data.packing_cache import planned_samples
from megatron_train.data.sft_dataset import Samples, training_samples
from tests.conftest import toy_documents, write_shard

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    prefix = write_shard(tmp_path / "toy", toy_documents(60))
    cache = str(tmp_path / "cache")
    return {"train_data_path": [prefix], "seq_length": 48, "packing": True, "data_cache_path": cache}


def planned(settings: dict[str, Any], num_samples: int = 50) -> Samples:
    return planned_samples(config_from_settings(settings, "test"), num_samples)


def assert_right(samples: Samples, settings: dict[str, Any], num_samples: int = 50) -> None:
    config = config_from_settings(settings, "test")
    expected = training_samples(config.data, num_samples, config.batch.seed)
    for name in packing_cache.COLUMNS:
        assert np.array_equal(getattr(samples, name), getattr(expected, name))
        assert getattr(samples, name).dtype == getattr(expected, name).dtype
    for name in packing_cache.FACTS:
        assert getattr(samples, name) == getattr(expected, name)
    assert [t.tolist() for t, _ in samples.row(7)] == [t.tolist() for t, _ in expected.row(7)]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_plans(monkeypatch)


def count_plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of samples of every plan computed from now on."""
    calls: list[int] = []

    def counted(data: Any, num_samples: int, seed: int) -> Samples:
        calls.append(num_samples)
        return training_samples(data, num_samples, seed)

    monkeypatch.setattr(packing_cache, "training_samples", counted)
    return calls


def test_computed_once_and_read_afterwards(
    settings: dict[str, Any], tmp_path: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        assert_right(planned(settings), settings)
    assert computed == [50]
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.startswith("packing-")
    assert {path.name for path in folder.iterdir()} == {
        "document.npy", "start.npy", "length.npy", "row_offsets.npy", "plan.json", "SHA256SUMS",
    }  # fmt: skip
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [{"seed": 5}, {"seq_length": 64}, {"packing_window": 7}, {"overlong": "drop"}, {"samples": 51}, {"data": 1}],
)
def test_each_setting_of_a_plan_is_part_of_its_key(
    change: dict[str, Any], settings: dict[str, Any], tmp_path: Path, computed: list[int]
) -> None:
    planned(settings)
    number = change.get("samples", 50)
    if "data" in change:
        write_shard(tmp_path / "toy", toy_documents(61))
    other = settings | {name: value for name, value in change.items() if name not in {"samples", "data"}}
    assert_right(planned(other, number), other, number)
    assert len(computed) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_split_and_blend_are_part_of_the_key(settings: dict[str, Any], computed: list[int], tmp_path: Path) -> None:
    (prefix,) = settings.pop("train_data_path")
    second = write_shard(tmp_path / "second", toy_documents(20, seed=3))
    ways: list[dict[str, Any]] = [
        {"data_path": [prefix]},
        {"data_path": [prefix], "split": "8,1,1"},
        {"train_data_path": [prefix]},
        {"train_data_path": ["1", prefix, "1", second]},
        {"train_data_path": ["1", prefix, "2", second]},
    ]
    for way in ways:
        assert_right(planned(settings | way), settings | way)
    assert len(computed) == len(ways)


def test_a_damaged_plan_is_computed_again_with_one_warning(
    settings: dict[str, Any], tmp_path: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    planned(settings)
    (folder,) = (tmp_path / "cache").iterdir()
    raw = bytearray((folder / "start.npy").read_bytes())
    raw[-1] ^= 1
    (folder / "start.npy").write_bytes(raw)
    assert_right(planned(settings), settings)
    warnings = capsys.readouterr().err
    assert warnings.count("warning: ") == 1
    assert f"computed again: {folder / 'start.npy'}: contents differ from SHA256SUMS" in warnings
    assert_right(planned(settings), settings)
    assert computed == [50, 50]
    assert capsys.readouterr().err == ""


def test_a_plan_of_other_data_under_this_name_is_not_used(
    settings: dict[str, Any], tmp_path: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    planned(settings)
    (first,) = (tmp_path / "cache").iterdir()
    planned(settings | {"seed": 5})
    (second,) = set((tmp_path / "cache").iterdir()) - {first}
    shutil.rmtree(first)
    shutil.copytree(second, first)
    assert_right(planned(settings), settings)
    assert "plan.json" in capsys.readouterr().err
    assert computed == [50, 50, 50]


def test_a_folder_that_cannot_be_written_costs_one_warning(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    assert_right(planned(settings), settings)
    warnings = capsys.readouterr().err
    assert warnings.count("warning: ") == 1
    assert "packing-" in warnings


def test_the_plan_is_stored_beside_the_checkpoints_or_not_at_all(settings: dict[str, Any], tmp_path: Path) -> None:
    del settings["data_cache_path"]
    planned(settings)
    planned(settings | {"save": str(tmp_path / "save"), "packing": False})
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    planned(settings | {"save": str(tmp_path / "save")})
    assert len(list((tmp_path / "save" / "packing").glob("packing-*/plan.json"))) == 1


def on_two_processes(settings: dict[str, Any]) -> list[tuple[int, list[int]]]:
    """Return the plans that this rank computes and its documents, with an empty, a full and a damaged cache."""
    found = []
    with pytest.MonkeyPatch.context() as patched:
        calls = count_plans(patched)
        for cache in (
            settings["data_cache_path"],
            settings["data_cache_path"],
            settings["train_data_path"][0] + "-text.bin",
        ):
            calls.clear()
            samples = planned(settings | {"data_cache_path": cache})
            found.append((len(calls), samples.document.tolist()))
    return found


def test_one_rank_computes_for_all(settings: dict[str, Any]) -> None:
    ranks = run_distributed(on_two_processes, 2, settings)
    expected = training_samples(config_from_settings(settings, "test").data, 50, 1234).document.tolist()
    assert ranks[0] == [(1, expected), (0, expected), (1, expected)]
    assert ranks[1] == [(0, expected), (0, expected), (1, expected)]
