"""The reports list every file that is read or omitted, and every unused field."""

import json
from pathlib import Path

from pretokenizer.config.settings import RunOptions
from tests.pretokenizer.conftest import BuildToy, question_records, write_jsonl


def talk(number: int, **keys: object) -> dict[str, object]:
    turns = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "a", "id": number}]
    return {"messages": turns, "source": "web", **keys}


def test_files_and_fields_are_used_or_named(tmp_path: Path, build_toy: BuildToy) -> None:
    own = tmp_path / "data/messages"
    for number in range(2):
        write_jsonl(own / f"train-{number}-of-2.jsonl", [talk(number), talk(number + 2), {"surprise": 1}][number:])
    write_jsonl(own / "extra.jsonl", [talk(9)])
    write_jsonl(own / ".ipynb_checkpoints/train-checkpoint.jsonl", [talk(9)])
    (own / "notes|.txt").write_text("x")
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", [{**record, "id": 1} for record in question_records(4)])
    for workers in (1, 2):
        datasets = [{"messages": {"val_split": 0}}, "gsm8k"]
        options = RunOptions(workers=workers, max_bad_fraction=0.5)
        manifest, folder = build_toy(datasets, options, output_dir=str(tmp_path / f"out{workers}"))
        messages, gsm8k = json.loads((folder / "stats.json").read_text())["inputs"]
        assert messages == {
            "name": "messages",
            "files": [
                {"path": str(own / "train-0-of-2.jsonl"), "split": "train", "records": 3},
                {"path": str(own / "train-1-of-2.jsonl"), "split": "train", "records": 2},
            ],
            "files_left_out": {
                str(own / ".ipynb_checkpoints/train-checkpoint.jsonl"): "hidden file or folder",
                str(own / "extra.jsonl"): "no split in its name",
                str(own / "notes|.txt"): "not a kind of file that holds records",
            },
            "fields_not_used": ["messages[].id", "source"],
            "irregular": {},
        }
        assert gsm8k["fields_not_used"] == ["id"] and gsm8k["files"][0]["records"] == 4
        warning = "messages: files with records left out (no split in its name): 1; stats.md lists them"
        assert warning in manifest.reports["warnings"]
        report = (folder / "stats.md").read_text()
        assert f"| {own / 'train-0-of-2.jsonl'} | train | 3 |\n" in report
        assert f"| {own / 'extra.jsonl'} | not used: no split in its name | - |\n" in report
        assert f"| {own}/notes\\|.txt | not used: not a kind of file that holds records | - |\n" in report
        assert "Fields not used: `messages[].id`, `source`.\n" in report


def test_missing_shards_are_a_warning(tmp_path: Path, build_toy: BuildToy) -> None:
    for number in (0, 1, 10):
        write_jsonl(tmp_path / f"data/messages/train-{number:05d}-of-00012.jsonl", [talk(number)])
    manifest, _ = build_toy([{"messages": {"val_split": 0}}])
    shards = tmp_path / "data/messages/train"
    assert f"messages: 3 of 12 shards of {shards} found; download the others" in manifest.reports["warnings"]


def test_irregular_conversations_are_counted(tmp_path: Path, build_toy: BuildToy) -> None:
    turns = talk(0)["messages"]
    assert isinstance(turns, list)
    records = [{"messages": turns[:1] + turns}, {"messages": [{"role": "system", "content": ""}, *turns, turns[0]]}]
    write_jsonl(tmp_path / "data/messages/a.jsonl", records)
    _, folder = build_toy([{"messages": {"val_split": 0}}])
    report = (folder / "stats.md").read_text()
    assert "- 1 conversations: two messages of one role in a row\n" in report
    assert "- 1 conversations: an empty system message is dropped\n" in report
    assert "- 1 conversations: ends without a reply\n" in report
    manifest, _ = build_toy(
        [{"messages": {"val_split": 0}}],
        RunOptions(max_bad_fraction=1),
        consecutive_roles="refuse",
        output_dir=str(tmp_path / "refused"),
    )
    assert manifest.reports["bad_records"]["0:messages"]["reasons"] == {"roles do not alternate": 1}
