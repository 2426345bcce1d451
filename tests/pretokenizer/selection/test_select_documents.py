"""Documents are selected with the expected order, names and counts in reports and shards."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


def leet(count: int) -> list[dict[str, str]]:
    return [{"INSTRUCTION": f"Do {i}", "RESPONSE": f"Done {i}."} for i in range(count)]


def titles(folder: Path, split: str = "train") -> list[str]:
    lines = (folder / f"toy-{split}_stats.txt").read_text().splitlines()
    return [line.removeprefix("## Stats for ") for line in lines if line.startswith("## ")]


def rows(folder: Path, split: str = "train") -> list[int]:
    origins: Any = np.load(folder / f"toy-{split}_origin.npy")
    return [int(row) for row in origins[:, 2]]


def test_instruction_rows_are_shuffled_then_split(build_toy: BuildToy, tmp_path: Path) -> None:
    import random

    write_jsonl(tmp_path / "data/oa_leet10k/a.jsonl", [*leet(4), {"INSTRUCTION": " ", "RESPONSE": "x"}, *leet(9)[5:]])
    _, folder = build_toy([{"oa_leet10k": {"val_split": 0.25}}])
    order = list(range(9))
    random.Random(42).shuffle(order)
    valid = [row for row in order if row != 4]
    permutation = np.random.RandomState(666).permutation(8).tolist()
    assert rows(folder, "val") == [valid[i] for i in permutation[:2]]
    assert rows(folder) == [valid[i] for i in permutation[2:]]
    assert titles(folder) == [
        "'Subset of InstructionDataset (oa_leet10k)' (6 samples (100.0%))",
        "'total' (6 samples (100.0%))",
    ]


def test_fraction_is_drawn_and_shown(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(10))
    _, folder = build_toy([{"gsm8k": {"fraction": 0.35}}])
    assert rows(folder) == np.random.RandomState(42).permutation(10)[:3].tolist()
    assert titles(folder) == ["'QADataset' (3 samples (35.0%))", "'total' (3 samples (100.0%))"]


def test_val_limits_make_subsets(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(4))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(10))
    _, folder = build_toy([{"gsm8k": {"max_val_set": 4}}])
    assert titles(folder, "val")[0] == "'Subset of QADataset' (4 samples (100.0%))"
    assert rows(folder, "val") == np.random.RandomState(42).choice(10, 4, replace=False).tolist()


def test_eval_size_takes_the_first(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(4))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(10))
    _, folder = build_toy(["gsm8k"], eval_size=2)
    assert rows(folder, "val") == [0, 1]


def test_the_same_name_twice_keeps_the_last_val(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/oa_leet10k/a.jsonl", leet(10))
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(2))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(1))
    datasets = [{"oa_leet10k": {"val_split": 0.5}}, "gsm8k", {"OA_leet10k": {"val_split": 0.2}}]
    manifest, _ = build_toy(datasets)
    assert [(d.name, d.documents) for d in manifest.splits["train"].datasets] == [
        ("oa_leet10k", 5),
        ("gsm8k", 2),
        ("oa_leet10k", 8),
    ]
    assert [(d.name, d.documents) for d in manifest.splits["val"].datasets] == [("oa_leet10k", 2), ("gsm8k", 1)]


def test_max_train_set_and_max_count(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(20))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(20))
    manifest, _ = build_toy([{"gsm8k": {"max_train_set": 12}}], max_count=7)
    assert (manifest.splits["train"].documents, manifest.splits["val"].documents) == (7, 7)
    manifest, folder = build_toy([{"gsm8k": {"max_train_set": 12}}], output_dir=str(tmp_path / "out2"))
    assert manifest.splits["train"].documents == 12
    assert titles(folder)[0] == "'QADataset' (12 samples (60.0%))"


def test_min_assistant_tokens_counts_template_tokens(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [{"question": "q", "answer": "!" * n} for n in (1, 2, 9)])
    _, folder = build_toy(["gsm8k"])
    from pretokenizer.files.shard import ShardReader

    counts = [int((document == 2).sum()) for document in ShardReader(folder / "toy-train-role")]
    kept, _ = build_toy(["gsm8k"], min_assistant_tokens=counts[1], output_dir=str(tmp_path / "out2"))
    assert counts[0] < counts[1] < counts[2]
    assert kept.splits["train"].documents == 2
    assert kept.splits["train"].datasets[0].skipped == {"too few assistant tokens": 1}
    report = (tmp_path / "out2/toy-train_stats.txt").read_text()
    assert "  Accepted: 2/3 (66.7%)\n" in report and "  Skipped: 1 (33.3%)\n" in report


def test_a_data_set_without_samples_is_reported(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(2))
    write_jsonl(tmp_path / "data/oa_leet10k/a.jsonl", [{"INSTRUCTION": "", "RESPONSE": ""}])
    manifest, folder = build_toy([{"oa_leet10k": {"val_split": 0}}, "gsm8k"])
    assert manifest.splits["train"].documents == 2
    report = (folder / "toy-train_stats.txt").read_text()
    assert "'InstructionDataset (oa_leet10k)' (0 samples (100.0%))" in report
    assert "  Accepted: 0/0 (0.0%)\n" in report and "  Avg tokens per sample: 0.0\n" in report
