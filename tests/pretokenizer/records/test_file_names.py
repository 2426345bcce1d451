"""File names determine the kind and the split of a file."""

from pathlib import PurePath

import pytest

from pretokenizer.records.file_names import has_record_suffix, split_name, stem_of


def test_which_names_are_records() -> None:
    names = ["a.JSONL", "a.jsonl.gz", "a.ndjson.xz", "a.csv", "a.tsv.bz2", "a.json.zst", "a.parquet", "a.arrow"]
    others = ["LICENSE", "a.txt", "a.tar.gz", "a.parquet.gz"]
    assert [name for name in names + others if has_record_suffix(name)] == names


def test_stems() -> None:
    names = "train-00000-of-00002.parquet train-10-of-12.jsonl en.jsonl.gz Test.json data.jsonl 2023-04-12_all.jsonl.gz"
    assert [stem_of(PurePath(name)) for name in names.split()] == [
        "train",
        "train",
        "en",
        "test",
        "data",
        "2023-04-12_all",
    ]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.jsonl", ("train", "train")),
        ("train2.jsonl", ("train", "train")),
        ("Train-10-of-12.jsonl.gz", ("train", "train")),
        ("train_sft-00000-of-00002.parquet", ("train", "train_sft")),
        ("test_gen-00000-of-00001.parquet", ("test", "test_gen")),
        ("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", ("train", "data/train")),
        ("gsm8k-train.arrow", ("train", "train")),
        ("my_training_data.v1.json", ("train", "training_data_v1")),
        ("default/train/0000.parquet", ("train", "default/train")),
        ("validation/part.1.csv", ("validation", "validation")),
        ("dev.tsv", ("validation", "dev")),
        ("eval_0001.jsonl", ("validation", "eval")),
        ("valid/train.jsonl", ("train", "valid/train")),
        ("extra.jsonl", ("", "")),
        ("devops/contest-latest.jsonl", ("", "devops/")),
        ("en/retrain.jsonl", ("", "en/")),
    ],
)
def test_splits(path: str, split: tuple[str, str]) -> None:
    found = split_name(PurePath(path))
    assert (found.kind, found.full_label) == split
