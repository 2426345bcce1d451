"""What a model was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from checkpoint_convert.lineage import lineage, record_source, source_name


def trained(folder: Path, load: Path | None) -> Path:
    """A published checkpoint of a run that began from `load`."""
    checkpoint = folder / "iter_0000002"
    checkpoint.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("2")
    (checkpoint / "train_config.yaml").write_text(yaml.safe_dump({"load": str(load) if load else None, "lr": 1.0}))
    return checkpoint


def test_lineage_goes_back_to_the_converted_model(tmp_path: Path) -> None:
    release = tmp_path / "base" / "release"
    release.mkdir(parents=True)
    (tmp_path / "base" / "latest_checkpointed_iteration.txt").write_text("release")
    record_source(release, tmp_path / "Llama-2-70b-hf")
    trained(tmp_path / "stage1", tmp_path / "base")

    assert lineage(trained(tmp_path / "stage2", tmp_path / "stage1")) == ["stage1", "base", "Llama-2-70b-hf"]
    assert lineage(release) == ["Llama-2-70b-hf"]


def test_lineage_ends_where_a_folder_is_gone_or_comes_again(tmp_path: Path) -> None:
    assert lineage(trained(tmp_path / "a", tmp_path / "gone")) == ["gone"]
    assert lineage(trained(tmp_path / "b", None)) == []
    assert lineage(trained(tmp_path / "c", tmp_path / "c")) == ["c"]


@pytest.mark.parametrize(
    ("folder", "config", "name"),
    [
        ("models--meta-llama--Llama-2-7b-hf/snapshots/0123abc", "{}", "meta-llama/Llama-2-7b-hf"),
        ("downloaded", '{"_name_or_path": "EleutherAI/pythia-1b"}', "EleutherAI/pythia-1b"),
        ("mine", '{"_name_or_path": "/home/me/llama"}', "mine"),
        ("mine", '{"_name_or_path": "./llama"}', "mine"),
        ("mine", "no json", "mine"),
    ],
)
def test_source_name(tmp_path: Path, folder: str, config: str, name: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "config.json").write_text(config)

    assert source_name(tmp_path / folder) == name
