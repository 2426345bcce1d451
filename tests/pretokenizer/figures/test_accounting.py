"""Every record read is counted exactly once."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretokenizer.config.settings import RunOptions
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


def counts_of(folder: Path) -> list[dict[str, Any]]:
    """Return the counts in stats.json after checking that they add up."""
    counts: list[dict[str, Any]] = json.loads((folder / "stats.json").read_text())["records"]
    for own in counts:
        outcomes = own["train"] + own["val"] + sum(own["left_out"].values()) + sum(own["bad"].values())
        assert outcomes == own["records"]
    return counts


def test_each_outcome_is_counted(build_toy: BuildToy, tmp_path: Path) -> None:
    replies = ["short", "a reply that is long enough to be kept here"]
    records = [
        {"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": replies[i > 2]}]}
        for i in range(20)
    ]
    silent = {"messages": [{"role": "user", "content": "q"}]}
    write_jsonl(tmp_path / "data/messages/train.jsonl", [*records, silent, {"x": 1}, {"x": 2}])
    entry = {"messages": {"val_split": 6, "max_val_set": 4, "fraction": 0.5}}
    _, folder = build_toy([entry], RunOptions(max_bad_fraction=0.5), min_assistant_tokens=9)
    (counts,) = counts_of(folder)
    assert counts["records"] == 23
    assert sum(counts["bad"].values()) == 2
    assert counts["left_out"]["no assistant message"] == 1
    assert counts["left_out"]["not drawn (fraction, size, max_train_set or max_count)"] == 7
    assert counts["left_out"]["not drawn (max_val_set, eval_size or max_count)"] == 2
    assert counts["train"] + counts["val"] + counts["left_out"].get("too few assistant tokens", 0) == 11
    report = (folder / "stats.md").read_text()
    assert f"| messages | 23 | {counts['train']} | {counts['val']} |" in report


@pytest.mark.parametrize("dedup", ["none", "exact"])
def test_copies_and_repetitions(dedup: str, build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*question_records(5), *question_records(2)])
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(1))
    write_jsonl(tmp_path / "data/joke/a.jsonl", [{"joke": f"{i}", "explaination": "x"} for i in range(10)])
    _, folder = build_toy(["gsm8k", {"joke": {"fraction": 2.0, "val_split": 0.2}}], dedup=dedup)
    gsm8k, joke = counts_of(folder)
    expected = {"none": (7, 1, {}), "exact": (5, 0, {"duplicate": 3})}[dedup]
    assert (gsm8k["records"], (gsm8k["train"], gsm8k["val"], gsm8k["left_out"])) == (8, expected)
    assert (joke["records"], joke["train"], joke["val"]) == (10, 8, 2)
