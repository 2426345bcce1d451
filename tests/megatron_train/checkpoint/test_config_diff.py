from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_train.checkpoint.config_diff import Difference, differences, setting_differences, table
from megatron_train.config.flags import config_from_settings, config_to_yaml
from megatron_train.config.settings import TrainConfig
from tests.megatron_train.models import LLAMA


def config_of(**settings: Any) -> TrainConfig:
    return config_from_settings(settings, "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LLAMA.save(tmp_path / "model_config.yaml")
    before = config_of(lr=1e-5, train_data_path=["a"], save="old", log_interval=5, loss_roles=["assistant"])
    (tmp_path / "train_config.yaml").write_text(config_to_yaml(before))
    return tmp_path


def test_the_same_settings_differ_in_nothing(folder: Path) -> None:
    assert differences(config_of(lr=1e-5, train_data_path=["a"]), folder) == []


def test_places_and_reports_are_not_compared(folder: Path) -> None:
    assert differences(config_of(lr=1e-5, train_data_path=["a"], save="new", log_interval=7, load="x"), folder) == []


def test_architecture_first_and_what_is_in_force(folder: Path, tmp_path: Path) -> None:
    other = replace(LLAMA, layernorm_epsilon=1e-6, rotary_base=5e5, vocab_size=117)
    other.save(tmp_path / "other.yaml")
    config = config_of(lr=2e-5, train_data_path=["a", "b"], model=str(tmp_path / "other.yaml"), save="s")
    found = differences(config, folder)
    assert found == [
        Difference("layernorm_epsilon", 1e-5, 1e-6, "checkpoint"),
        Difference("rotary_base", 10000.0, 500000.0, "checkpoint"),
        Difference("train_data_path", ["a"], ["a", "b"], "given"),
        Difference("lr", 1e-5, 2e-5, "given"),
    ]
    assert table(found) == (
        "  setting            checkpoint  given     in force\n"
        "  layernorm_epsilon  1e-05       1e-06     checkpoint\n"
        "  rotary_base        10000.0     500000.0  checkpoint\n"
        "  train_data_path    a           a b       given\n"
        "  lr                 1e-05       2e-05     given"
    )


def test_the_loss_scale_continues_from_the_checkpoint(folder: Path) -> None:
    config = config_of(lr=1e-5, train_data_path=["a"], initial_loss_scale=8.0)
    assert differences(config, folder) == [Difference("initial_loss_scale", 65536.0, 8.0, "checkpoint")]


def test_settings_that_an_earlier_release_lacked_are_not_compared(folder: Path) -> None:
    lines = (folder / "train_config.yaml").read_text().splitlines()
    (folder / "train_config.yaml").write_text("\n".join(line for line in lines if not line.startswith("lr:")))
    assert setting_differences(config_of(lr=2e-5, train_data_path=["a"]), folder) == []


def test_converted_weights_have_no_settings_to_compare(folder: Path) -> None:
    (folder / "train_config.yaml").unlink()
    assert differences(config_of(lr=2e-5), folder) == []
