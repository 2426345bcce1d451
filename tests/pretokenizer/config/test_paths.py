"""A name is a shipped one first, then a path in the working folder, then one in the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretokenizer.config.paths import find_config, find_file, shipped_configs
from tests.paths import CONFIGS, ROOT


def test_shipped_configs_of_a_checkout_are_its_own() -> None:
    assert shipped_configs() == CONFIGS


def test_shipped_configs_of_a_wheel_are_its_data_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "oasst_megatron_configs"
    (package / "train").mkdir(parents=True)
    (package / "train" / "mine.yaml").write_text("lr: 1.0e-4")
    (package / "cards.yaml").touch()
    (tmp_path / "other" / "oasst_megatron_configs").mkdir(
        parents=True
    )  # a folder with this name, but without our files
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    monkeypatch.setattr("pretokenizer.config.paths.REPOSITORY", tmp_path / "site-packages")
    assert shipped_configs() == package
    assert find_config("train", "mine") == package / "train" / "mine.yaml"
    assert find_file("configs/train/mine.yaml") == package / "train" / "mine.yaml"


def test_a_shipped_name_comes_first_then_the_working_folder_then_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("model", "tiny_llama") == CONFIGS / "model" / "tiny_llama.yaml"
    assert find_config("model", "configs/model/tiny_llama.yaml") == CONFIGS / "model" / "tiny_llama.yaml"
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "tiny_llama.yaml").touch()
    assert find_config("model", "configs/model/tiny_llama.yaml") == Path("configs/model/tiny_llama.yaml")
    assert find_file("examples/demo.py") == ROOT / "examples" / "demo.py"
    assert find_file("nowhere/at_all.yaml") == Path("nowhere/at_all.yaml")


def test_an_installation_without_configurations_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretokenizer.config.paths.REPOSITORY", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="oasst_megatron_configs"):
        shipped_configs()
