"""duplicates.py and decontaminate.py, through whole builds, and their parts alone."""

import json
from pathlib import Path

import pytest

from pretokenizer.conversation import Conversation, pair
from pretokenizer.decontaminate import Questions, read_questions
from pretokenizer.record_files import RecordError
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl

LONG = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron"


def doubled_data(folder: Path) -> None:
    """Train 0 1 2 1 0 1; val 7 1 7."""
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


def test_equal_keys_are_not_enough(build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zlib.crc32", lambda *data: 7)
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [{"question": q, "answer": "a"} for q in ("x", "y", "x")])
    manifest, _ = build_toy(["gsm8k"], dedup="exact")
    assert manifest.splits["train"].documents == 2


def test_contaminated_documents_are_left_out(build_toy: BuildToy, tmp_path: Path) -> None:
    records = [{"question": f"So, {LONG.upper()}!", "answer": "a"}, {"question": LONG[:60], "answer": "b"}]
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*records, *question_records(2)])
    tests = write_jsonl(tmp_path / "tests.jsonl", [{"question_id": 1, "turns": [LONG, "short one"]}])
    manifest, folder = build_toy(["gsm8k"], decontaminate=[str(tests)])
    assert manifest.splits["train"].datasets[0].skipped == {"test question": 1}
    assert manifest.reports["contaminated"] == {"0:gsm8k": 1}
    assert str(tests) in manifest.inputs
    assert json.loads((folder / "stats.json").read_text())["contaminated"] == {"0:gsm8k": 1}


def test_questions_shorter_than_the_run_count_as_a_whole() -> None:
    questions = Questions(["what is the capital of france", "too short", LONG], 13)
    assert questions.num_questions == 2
    assert questions.has_run_of(Conversation(pair("Hm: What is the capital of France?", "Paris")))
    assert not questions.has_run_of(Conversation(pair("what is the capital", "of france")))
    assert questions.has_run_of(Conversation(pair("q", "x " + " ".join(LONG.split()[1:14]))))
    assert not questions.has_run_of(Conversation(pair("q", " ".join(LONG.split()[:12]))))


def test_question_files(tmp_path: Path, build_toy: BuildToy) -> None:
    (tmp_path / "q.txt").write_text("one\ntwo\n")
    assert list(read_questions(tmp_path / "q.txt")) == ["one", "two"]
    other = write_jsonl(tmp_path / "q.jsonl", [{"goal": "g", "sol": ["s", 1]}, {"question": {"stem": "t"}, "id": "x"}])
    assert list(read_questions(other)) == ["g", "s", "t"]
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(1))
    with pytest.raises(RecordError, match="no question of at least 5 words"):
        build_toy(["gsm8k"], decontaminate=[str(tmp_path / "q.txt")])
