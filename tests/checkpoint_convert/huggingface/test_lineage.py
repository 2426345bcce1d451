"""The lineage of an export names every run and folder from which the model descends."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from checkpoint_convert.huggingface.lineage import lineage, record_source, source_name
from checkpoint_convert.verify.receipt import write_receipt


def trained(folder: Path, load: Path | None, iteration: int = 2) -> Path:
    """Return a published checkpoint of a run that started from `load`."""
    checkpoint = folder / f"iter_{iteration:07d}"
    checkpoint.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text(str(iteration))
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


def test_lineage_continues_across_an_exported_folder(tmp_path: Path) -> None:
    release, exported = tmp_path / "base" / "release", tmp_path / "stage1-hf"
    for folder in (release, exported, tmp_path / "again" / "release"):
        folder.mkdir(parents=True)
    for name in ("base", "again"):
        (tmp_path / name / "latest_checkpointed_iteration.txt").write_text("release")
    record_source(release, tmp_path / "Llama-2-70b-hf")
    (exported / "SHA256SUMS").write_text("")
    write_receipt(exported, trained(tmp_path / "stage1", tmp_path / "base"))
    record_source(tmp_path / "again" / "release", exported)

    assert lineage(trained(tmp_path / "stage2", tmp_path / "again")) == [
        "again", "stage1-hf", "stage1", "base", "Llama-2-70b-hf",
    ]  # fmt: skip


def test_lineage_ends_where_a_folder_is_gone_or_comes_again(tmp_path: Path) -> None:
    assert lineage(trained(tmp_path / "a", tmp_path / "gone")) == ["gone"]
    assert lineage(trained(tmp_path / "b", None)) == []
    assert lineage(trained(tmp_path / "c", tmp_path / "c")) == []


def test_a_resumed_run_is_followed_to_its_base(tmp_path: Path) -> None:
    """With --load X --save X, each checkpoint but the first records that it started from X."""
    run = tmp_path / "run"
    for iteration, load in ((2, tmp_path / "base"), (4, run), (6, run)):
        trained(run, load, iteration)
    assert lineage(run / "iter_0000004") == ["base"]
    assert lineage(run / "iter_0000006") == ["base"]


def test_a_run_in_the_folder_of_its_converted_weights(tmp_path: Path) -> None:
    (tmp_path / "x" / "release").mkdir(parents=True)
    record_source(tmp_path / "x" / "release", tmp_path / "Llama-2-70b-hf")

    assert lineage(trained(tmp_path / "x", tmp_path / "x")) == ["Llama-2-70b-hf"]


@pytest.mark.parametrize(
    ("folder", "config", "name"),
    [
        ("models--meta-llama--Llama-2-7b-hf/snapshots/0123abc", "{}", "meta-llama/Llama-2-7b-hf"),
        ("downloaded", '{"_name_or_path": "EleutherAI/pythia-1b"}', "EleutherAI/pythia-1b"),
        ("mine", '{"_name_or_path": "/home/me/llama"}', "mine"),
        ("mine", '{"_name_or_path": "./llama"}', "mine"),
        ("mine", '{"_name_or_path": "outputs/my-run"}', "mine"),
        ("mine", '{"_name_or_path": "my-run/checkpoint-500"}', "mine"),
        ("mine", "no json", "mine"),
    ],
)
def test_source_name(tmp_path: Path, folder: str, config: str, name: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "config.json").write_text(config)

    assert source_name(tmp_path / folder) == name
