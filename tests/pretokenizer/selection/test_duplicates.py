"""Whole builds report or remove exact duplicates."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.config.settings import RunOptions
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


def doubled_data(folder: Path) -> None:
    """Write questions 0 1 2 1 0 1 to train and 7 1 7 to val."""
    records = question_records(8)
    write_jsonl(folder / "gsm8k/train.jsonl", [records[i] for i in (0, 1, 2, 1, 0, 1)])
    write_jsonl(folder / "gsm8k/test.jsonl", [records[i] for i in (7, 1, 7)])


def test_duplicates_are_reported(build_toy: BuildToy, tmp_path: Path) -> None:
    doubled_data(tmp_path / "data")
    manifest, folder = build_toy(["gsm8k"])
    assert manifest.splits["train"].documents == 6
    expected = {
        "train": 3,
        "val": 1,
        "leaked": 1,
        "removed": 0,
        "examples": [
            {"val": {"dataset": "gsm8k", "file": 1, "record": 2}, "train": {"dataset": "gsm8k", "file": 0, "record": 2}}
        ],
    }
    assert manifest.reports["duplicates"] == expected
    assert "- Val documents that also occur in train: 1\n" in (folder / "stats.md").read_text()


def test_duplicates_are_left_out(build_toy: BuildToy, tmp_path: Path) -> None:
    doubled_data(tmp_path / "data")
    manifest, folder = build_toy(["gsm8k"], dedup="exact")
    assert (manifest.splits["train"].documents, manifest.splits["val"].documents) == (3, 1)
    assert manifest.reports["duplicates"]["removed"] == 5
    assert manifest.splits["train"].datasets[0].skipped == {"duplicate": 3}
    assert "  Accepted: 3/6 (50.0%)\n" in (folder / "toy-train_stats.txt").read_text()


@pytest.mark.parametrize("question", ["{}", "the same beginning " * 20 + "{}", "{}" + " the same end" * 20])
def test_equal_keys_are_not_enough(
    question: str, build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zlib.crc32", lambda *data: 7)
    records = [{"question": question.format(letter), "answer": "a"} for letter in "xyx"]
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", records)
    manifest, _ = build_toy(["gsm8k"], dedup="exact")
    assert manifest.splits["train"].documents == 2


def test_repeated_documents_are_no_duplicates_and_never_reach_val(build_toy: BuildToy, tmp_path: Path) -> None:
    questions = question_records(10)
    records = [{"prompt": r["question"], "response": r["answer"]} for r in [*questions, questions[3]]]
    write_jsonl(tmp_path / "data/prompt_response/a.jsonl", records)
    entry = {"prompt_response": {"fraction": 2.5, "val_split": 0.2}}
    manifest, folder = build_toy([entry])
    train, val = (np.load(folder / f"toy-{split}_origin.npy")[:, 2].tolist() for split in ("train", "val"))
    assert (len(train), len(val)) == (20, 3)
    assert sorted(Counter(train).values()) == [2, 2, 2, 2, 3, 3, 3, 3]
    assert not set(train) & set(val)
    duplicates = manifest.reports["duplicates"]
    assert (duplicates["train"] + duplicates["leaked"], duplicates["removed"]) == (1, 0)
    manifest, folder = build_toy([entry], RunOptions(overwrite=True), dedup="exact")
    train, val = (np.load(folder / f"toy-{split}_origin.npy")[:, 2].tolist() for split in ("train", "val"))
    assert len({3, 10} & {*train, *val}) == 1
    assert min(Counter(train).values()) == 2
