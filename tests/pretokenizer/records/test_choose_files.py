"""Every file of a folder is used or named, and an ambiguous folder is an error that explains how to choose."""

import json
from pathlib import Path

import pytest

from pretokenizer.records.choose_files import (
    DataMissingError,
    choose_by_split,
    choose_by_stem,
    list_folder,
)
from tests.pretokenizer.conftest import touch


def choose(folder: Path, wanted: str | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the chosen files and {omitted file: reason}, relative to the folder."""
    chosen = choose_by_split(list_folder(folder), wanted, "messages")
    left_out = {str(Path(path).relative_to(folder)): reason for path, reason in chosen.left_out.items()}
    return [str(path.relative_to(folder)) for path in chosen.train], left_out


def test_all_files_if_no_name_has_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl", "x/a.csv", "README.md", ".ipynb_checkpoints/b-checkpoint.jsonl", ".b.jsonl", ".git/HEAD")
    assert choose(tmp_path) == (
        ["b.jsonl", "x/a.csv"],
        {
            "README.md": "not a kind of file that holds records",
            ".b.jsonl": "hidden file or folder",
            ".ipynb_checkpoints/b-checkpoint.jsonl": "hidden file or folder",
        },
    )


def test_every_shard_of_the_train_split_is_used(tmp_path: Path) -> None:
    shards = [f"train-{i}-of-12.jsonl" for i in range(12)]
    assert choose(touch(tmp_path / "a", *shards)) == (sorted(shards), {})
    touch(tmp_path / "b", "train.jsonl", "train2.jsonl", "extra.jsonl", "valid.jsonl", "test_2.jsonl")
    assert choose(tmp_path / "b") == (
        ["train.jsonl", "train2.jsonl"],
        {"extra.jsonl": "no split in its name", "valid.jsonl": "split valid", "test_2.jsonl": "split test"},
    )
    touch(tmp_path / "c", "default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet")
    assert choose(tmp_path / "c") == (
        ["default/train/0000.parquet", "default/train/0001.parquet"],
        {"default/test/0000.parquet": "split default/test"},
    )


def test_several_training_splits_are_an_error_that_lists_them(tmp_path: Path) -> None:
    shards = [
        "train_sft-00000-of-00002.parquet",
        "train_sft-00001-of-00002.parquet",
        "train_gen-00000-of-00001.parquet",
    ]
    touch(tmp_path, *shards, "test_sft-00000-of-00001.parquet")
    with pytest.raises(DataMissingError) as error:
        choose(tmp_path)
    assert str(error.value) == (
        f"messages: several splits for training in {tmp_path}; it has test_sft: test_sft-00000-of-00001.parquet;"
        " train_gen: train_gen-00000-of-00001.parquet;"
        " train_sft: train_sft-00000-of-00002.parquet, train_sft-00001-of-00002.parquet;"
        " set `split:` to one of them, or `input_file_path:` to a file or a glob pattern"
    )
    assert choose(tmp_path, "train_sft")[0] == shards[:2]
    assert choose(tmp_path, "test_sft")[0] == ["test_sft-00000-of-00001.parquet"]
    assert choose(tmp_path, "train")[0] == sorted(shards)
    with pytest.raises(DataMissingError, match=r"no split 'validation' in .*it has test_sft: "):
        choose(tmp_path, "validation")


def test_configurations_in_folders_are_not_mixed(tmp_path: Path) -> None:
    touch(tmp_path, "main/train-0.parquet", "main/test-0.parquet", "socratic/train-0.parquet")
    with pytest.raises(DataMissingError, match=r"it has main/test: .* main/train: .* socratic/train: "):
        choose(tmp_path)
    assert choose(tmp_path, "main/train")[0] == ["main/train-0.parquet"]


@pytest.mark.parametrize("others", [[], ["all.jsonl"]])
def test_a_folder_without_training_split_is_an_error(tmp_path: Path, others: list[str]) -> None:
    touch(tmp_path, "test.jsonl", "dev.jsonl", *others)
    with pytest.raises(DataMissingError, match=r"no file of a train split in .*; it has dev: dev\.jsonl.*set `split:`"):
        choose(tmp_path)


def test_the_same_records_in_two_kinds_of_files_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl.gz", "train.parquet")
    with pytest.raises(DataMissingError, match=r"train\.jsonl\.gz, train\.parquet in .* two kinds of files"):
        choose(tmp_path)


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for split in ("train", "test"):
        touch(tmp_path / split, *names, "data-00000-of-00001.arrow", "cache-1f.arrow", "dataset_info.json")
        state = {"_data_files": [{"filename": name} for name in names], "_split": split}
        (tmp_path / split / "state.json").write_text(json.dumps(state))
    touch(tmp_path, "dataset_dict.json", "../hub/x-train.arrow", "../hub/cache-2.arrow")
    assert choose(tmp_path / "test") == (
        names,
        {
            "cache-1f.arrow": "not listed in state.json",
            "data-00000-of-00001.arrow": "not listed in state.json",
            "dataset_info.json": "metadata",
            "state.json": "metadata",
        },
    )
    chosen, left_out = choose(tmp_path)
    assert chosen == [f"train/{name}" for name in names] and left_out[f"test/{names[0]}"] == "split test"
    assert choose(tmp_path / "../hub") == (["x-train.arrow"], {"cache-2.arrow": "a cache of the library datasets"})
    (tmp_path / "train/state.json").write_text('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}')
    with pytest.raises(DataMissingError, match=r"state\.json: a selection of rows; call flatten_indices"):
        choose(tmp_path)


def test_files_of_declared_stems(tmp_path: Path) -> None:
    touch(tmp_path, "test.jsonl", "train-00001-of-00002.parquet", "train-00000-of-00002.parquet", "old.jsonl")
    chosen = choose_by_stem(list_folder(tmp_path), ("train",), ("test", "validation"), "gsm8k")
    assert [path.name for path in chosen.train] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert [path.name for path in chosen.val] == ["test.jsonl"]
    assert chosen.left_out == {str(tmp_path / "old.jsonl"): "this data set reads train, test, validation"}
    touch(tmp_path, "socratic/train-00000-of-00001.parquet")
    with pytest.raises(DataMissingError, match=r"gsm8k: files of train in several folders .*socratic.*data_path"):
        choose_by_stem(list_folder(tmp_path), ("train",), (), "gsm8k")
