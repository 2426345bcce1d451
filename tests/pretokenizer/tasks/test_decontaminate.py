"""Documents that contain a benchmark's questions are found and omitted."""

import json
from pathlib import Path

import pytest

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.records.json_text import RecordError
from pretokenizer.tasks.decontaminate import Questions, read_questions, words_of
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl

LONG = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron"


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


def test_val_keeps_test_questions(build_toy: BuildToy, tmp_path: Path) -> None:
    asked = {"question": LONG, "answer": "a"}
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [asked, *question_records(2)])
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", [asked])
    tests = write_jsonl(tmp_path / "tests.jsonl", [{"question": LONG}])
    manifest, _ = build_toy(["gsm8k"], decontaminate=[str(tests)])
    assert manifest.splits["train"].datasets[0].skipped == {"test question": 1}
    assert (manifest.splits["val"].documents, manifest.splits["val"].datasets[0].skipped) == (1, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("GPT4 说：你好!", ["gpt4", "说", "你", "好"]),
        ("カナとｶﾅ、々", ["カ", "ナ", "と", "ｶ", "ﾅ", "々"]),
        ("\U00020bb7野屋", ["\U00020bb7", "野", "屋"]),
        ("ที่ไทย ๒๕", ["ท", "\u0e35", "\u0e48", "ไ", "ท", "ย", "๒๕"]),
        ("ພາ ភា မာ", ["ພ", "າ", "ភ", "\u17b6", "မ", "\u102c"]),
        ("한국어 문장 Straße x_1", ["한국어", "문장", "straße", "x_1"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_a_chinese_question_inside_a_longer_text() -> None:
    questions = Questions(["小明有五个苹果,他又买了三个苹果,一共有几个?"], 13)
    assert questions.num_questions == 1
    assert questions.has_run_of(Conversation(pair("请回答:小明有五个苹果,他又买了三个苹果吗", "有")))
    assert not questions.has_run_of(Conversation(pair("小明有五个苹果,他又吃了三个梨", "好")))


def test_a_missing_file_is_named_with_the_remedy(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(1))
    with pytest.raises(ConfigError) as error:
        build_toy(["gsm8k"], decontaminate=[str(tmp_path / "none.jsonl")])
    assert str(error.value) == (
        f"--decontaminate {tmp_path}/none.jsonl: no such file; give the path of a file with test questions (.jsonl,"
        " .json, .parquet, .txt), or build without the flag (--no-decontaminate)"
    )


def test_questions_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Où est la gare ?\n".encode("latin-1"))
    with pytest.raises(RecordError, match=r"--decontaminate .*latin\.txt: not UTF-8 at byte 1"):
        list(read_questions(tmp_path / "latin.txt"))
