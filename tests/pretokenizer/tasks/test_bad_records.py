"""Bad records are counted, named and omitted, and too many stop the build."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pretokenizer.build import build
from pretokenizer.config.settings import RunOptions
from pretokenizer.encode.encoder import REFERENCE_ENV
from pretokenizer.merge import build_part, merge
from pretokenizer.records.json_text import RecordError
from pretokenizer.tasks.bad_records import BadRecordsError
from tests.pretokenizer.conftest import BuildToy, make_toy_config, question_records, write_jsonl

LINES = {
    "broken": "not valid JSON",
    '{"question": "q"}': "lacks the key 'answer'; its keys: question",
    "[7]": "expected a JSON object, found a list",
    '{"question": "q", "answer": 7}': "a message is not text; the assistant message is of type int",
    '{"question": "\\ud83d", "answer": "a"}': "broken Unicode",
    '{"question": "q", "answer": "' + "x" * (1 << 20) + '"}': "a line of more than 1 MiB (--max_line_mb)",
}
"""Bad lines and the reason that the reports state for each."""


def data_with_bad_lines(tmp_path: Path) -> Path:
    """Write 94 good records with one of LINES after every tenth, and blank lines between them."""
    path = tmp_path / "data/gsm8k/train.jsonl"
    lines = [json.dumps(record) for record in question_records(94)]
    for number, line in enumerate(LINES):
        lines.insert(10 + 11 * number, "\n" + line)
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("toy-*.*")) if path.suffix in (".bin", ".idx")}


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_records_are_counted_named_and_left_out(
    workers: int, build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretokenizer.tasks.plan.make_plan.__defaults__", (500_000,))
    path = data_with_bad_lines(tmp_path)
    options = RunOptions(workers=workers, max_bad_fraction=0.06)
    manifest, folder = build_toy(["gsm8k"], options, max_line_mb=1)
    bad = manifest.reports["bad_records"]["0:gsm8k"]
    assert bad["records"] == 100
    assert bad["reasons"] == {
        "not valid JSON": 1,
        "lacks the key 'answer'": 1,
        "expected a JSON object": 1,
        "a message is not text": 1,
        "broken Unicode": 1,
        "a line of more than 1 MiB (--max_line_mb)": 1,
    }
    # Line numbers: ten good lines, a blank line and a bad line, repeated.
    expected = {f"{path}:{12 * (i + 1)}: {reason}" for i, reason in enumerate(LINES.values())}
    assert {
        example.partition(" JSON: ")[0].replace("not valid", "not valid JSON") for example in bad["examples"]
    } == expected
    assert "- gsm8k: 6 of 100 records are bad; the first are\n" in (folder / "stats.md").read_text()
    assert manifest.reports["warnings"][0].startswith("gsm8k: 6 of 100 records are bad (6.0%) and left out; the first")
    found = shards(folder)

    write_jsonl(path, question_records(94))
    _, folder = build_toy(["gsm8k"], RunOptions(overwrite=True))
    assert found == shards(folder) and found


@pytest.mark.parametrize("number", range(len(LINES)))
def test_strict_stops_at_each_kind(number: int, build_toy: BuildToy, tmp_path: Path) -> None:
    line, reason = list(LINES.items())[number]
    path = write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(3))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RecordError) as error:
        build_toy(["gsm8k"], RunOptions(strict=True), max_line_mb=1)
    assert str(error.value).startswith(f"{path}:4: {reason}")


def test_too_many_stop_the_build_until_more_are_allowed(build_toy: BuildToy, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*question_records(18), {"x": 1}, {"question": "q"}])
    write_jsonl(tmp_path / "data/joke/a.jsonl", [{"joke": str(i), "explaination": "x"} for i in range(1000)])
    with pytest.raises(BadRecordsError) as error:
        build_toy(["gsm8k", "joke"])  # few of all records, but many of one data set's
    assert str(error.value).splitlines() == [
        "gsm8k: 2 of 20 records are bad (10.0%), more than --max_bad_fraction 0.05 allows; the first are",
        f"  {path}:19: lacks the key 'question'; its keys: x",
        f"  {path}:20: lacks the key 'answer'; its keys: question",
        "correct the file or the options and start over with --overwrite, or resume with a larger --max_bad_fraction",
    ]
    assert not (tmp_path / "out").exists()
    manifest, _ = build_toy(["gsm8k", "joke"], RunOptions(max_bad_fraction=0.1))
    assert [d.documents for d in manifest.splits["train"].datasets] == [18, 800]


def test_parts_and_their_merge_count_bad_records(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*question_records(9), {"x": 1}])
    write_jsonl(tmp_path / "data/joke/a.jsonl", [{"joke": "a", "explaination": "b"}] * 5)
    config = make_toy_config(tmp_path, ["gsm8k", "joke"])
    folders = [
        build_part(config, RunOptions(part=i, num_parts=2)) for i in range(2)
    ]  # a part does not hold a whole data set
    with pytest.raises(BadRecordsError, match="gsm8k: 1 of 10 records are bad"):
        merge(folders, tmp_path / "joined")
    manifest = merge(folders, tmp_path / "joined", RunOptions(max_bad_fraction=0.1))
    assert manifest.reports["bad_records"]["0:gsm8k"]["reasons"] == {"lacks the key 'question'": 1}


@pytest.mark.parametrize("name", ["train.json", "train.jsonl.gz"])
def test_the_place_in_other_file_formats(name: str, build_toy: BuildToy, tmp_path: Path) -> None:
    records: list[Any] = [*question_records(2), 7, {"x": 1}]
    path = tmp_path / "data/gsm8k" / name
    path.parent.mkdir(parents=True)
    lines = "\n\n".join(map(json.dumps, records)).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else json.dumps(records).encode())
    manifest, _ = build_toy(["gsm8k"], RunOptions(max_bad_fraction=0.5))
    expected = {
        "train.json": [
            ": item 3: expected a JSON object, found a int",
            ": record 4: lacks the key 'question'; its keys: x",
        ],
        "train.jsonl.gz": [":5: expected a JSON object, found a int", ":7: lacks the key 'question'; its keys: x"],
    }
    assert manifest.reports["bad_records"]["0:gsm8k"]["examples"] == [f"{path}{rest}" for rest in expected[name]]


def test_trees_are_named_by_their_line(build_toy: BuildToy, tmp_path: Path) -> None:
    def message(text: str, role: str, *replies: Any) -> dict[str, Any]:
        return {"text": text, "role": role, "lang": "en", "review_result": True, "replies": list(replies)}

    def tree(first_role: str) -> dict[str, Any]:
        root = message("q", first_role, message("a", "assistant"))
        return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": root}

    path = write_jsonl(tmp_path / "data/trees.jsonl", [tree("prompter")] * 9 + [tree("assistant"), {"thread_id": 1}])
    entry = {"oasst_export": {"input_file_path": "trees.jsonl"}}
    manifest, _ = build_toy([entry], RunOptions(max_bad_fraction=0.5))
    keys = "its keys: message_tree_id, tree_state, prompt"
    assert manifest.reports["bad_records"]["0:oasst_export"]["examples"] == [
        f"{path}:10: has an unexpected form (roles do not alternate); {keys}",
        f"{path}:11: neither a message tree nor a message; a thread; export trees instead",
    ]


NESTED = "[" * 1000 + "]" * 1000
WRONG_ANSWERS = ["null", "7", '"\\ud83d"', NESTED, '["a"]']


@pytest.mark.parametrize("chat_format", ["chatml", "llama2", "template"])
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_wrong_texts_are_bad_in_every_format(
    chat_format: str, engine: str, build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "reference":
        monkeypatch.setenv(REFERENCE_ENV, "reference")
    if chat_format == "template":
        chat_format = str(tmp_path / "chat.jinja")
        Path(chat_format).write_text(
            "{% for m in messages %}{% if 'no way' in m.content %}{{ raise_exception('not that') }}{% endif %}"
            "<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
        )
    path = tmp_path / "data/gsm8k/train.jsonl"
    good = [json.dumps(record) for record in question_records(20)]
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([*good, *(f'{{"question": "q", "answer": {answer}}}' for answer in WRONG_ANSWERS)]))
    manifest, folder = build_toy(["gsm8k"], RunOptions(max_bad_fraction=0.5), chat_format=chat_format)
    assert manifest.reports["bad_records"]["0:gsm8k"]["reasons"] == {"a message is not text": 4, "broken Unicode": 1}
    found = shards(folder)
    path.write_text("\n".join(good))
    assert shards(build_toy(["gsm8k"], RunOptions(overwrite=True), chat_format=chat_format)[1]) == found
    if chat_format.endswith("jinja"):
        path.write_text("\n".join([*good, '{"question": "no way", "answer": "a"}']))
        manifest, _ = build_toy(["gsm8k"], RunOptions(overwrite=True), chat_format=chat_format)
        [example] = manifest.reports["bad_records"]["0:gsm8k"]["examples"]
        assert "train.jsonl:21: the chat format cannot express it" in example and "not that" in example


def test_strict_stops_at_a_bad_record_of_an_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [*question_records(30), {"x": 1}])
    config = make_toy_config(tmp_path, ["gsm8k"])
    with monkeypatch.context() as patch:
        patch.setattr("pretokenizer.build.assemble", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(config, RunOptions())
    with pytest.raises(RecordError, match=f"{path}:31: lacks the key 'question'"):
        build(config, RunOptions(strict=True))


def test_hostile_names_and_keys_do_no_harm(build_toy: BuildToy, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    langs = ["\ud800", "en", "de\n# heading", "x" * 36, *(f"l{i}" for i in range(300))]
    records: list[Any] = [{"messages": talk, "lang": lang} for lang in langs]
    path = tmp_path / "data/messages/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(map(json.dumps, [*records, {"\x1b]0;owned\x07\n# heading": 1}, {"\ud800": 2}])))
    manifest, folder = build_toy([{"messages": {"val_split": 0}}])
    assert manifest.reports["bad_records"]["0:messages"]["examples"] == [
        f"{path}:305: no known form; docs/data.md lists the forms; its keys: \\x1b]0;owned\\x07\\n# heading",
        f"{path}:306: no known form; docs/data.md lists the forms; its keys: \\ud800",
    ]
    languages = json.loads((folder / "stats.json").read_text())["splits"]["train"][0]["languages"]
    assert languages["en"] == 1 and languages["unknown"] == 304 - 249 and len(languages) == 250


def test_a_source_that_stops_early_counts_what_it_read(
    build_toy: BuildToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretokenizer.sources.translation.MAX_ROWS", 20)
    rows = [json.dumps({"translation": {"zh": f"z{i}", "en": f"e{i}"}}) for i in range(40)]
    path = tmp_path / "data/wmt2019_zh-en/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(["broken"] * 10 + rows))
    manifest, _ = build_toy(["wmt2019_zh-en"], RunOptions(max_bad_fraction=0.4))
    bad = manifest.reports["bad_records"]["0:wmt2019_zh-en"]
    assert (bad["records"], bad["reasons"]) == (30, {"not valid JSON": 10})
