"""Data files are found in folders arranged by hand and in the hub's layout."""

import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pretokenizer.config.settings import DatasetEntry
from pretokenizer.records.locate import DataMissingError, DatasetFiles, fetch, locate_files
from pretokenizer.sources import make_source
from tests.pretokenizer.conftest import BuildToy, question_records, touch, write_jsonl


def locate(folder: Path, name: str, **options: Any) -> DatasetFiles:
    entry = DatasetEntry(name, options=options)
    return locate_files(entry, make_source(name, options).layout, folder, None)


def names(files: tuple[Path, ...]) -> list[str]:
    return [path.name for path in files]


def test_splits_by_stem(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "gsm8k/test.jsonl",
        "gsm8k/main/train-00001-of-00002.parquet",
        "gsm8k/main/train-00000-of-00002.parquet",
    )
    files = locate(tmp_path, "gsm8k")
    assert names(files.train) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert names(files.val) == ["test.jsonl"]
    touch(tmp_path, *(f"dolly15k_multilingual/{lang}.jsonl" for lang in ("fr", "en", "es", "de")))
    assert names(locate(tmp_path, "dolly15k_multilingual").train) == ["en.jsonl", "de.jsonl", "es.jsonl", "fr.jsonl"]


def test_all_files_or_those_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "vicuna/b.json", "vicuna/a.json", "vicuna/LICENSE")
    assert names(locate(tmp_path, "vicuna").train) == ["a.json", "b.json"]
    touch(tmp_path, "code_alpaca/dataset_infos.json", "code_alpaca/code_alpaca_20k.json")
    assert names(locate(tmp_path, "code_alpaca").train) == ["code_alpaca_20k.json"]
    touch(tmp_path, "alpaca/train.json", "alpaca/other.json")
    assert names(locate(tmp_path, "alpaca").train) == ["train.json"]


def test_named_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "messages/b.jsonl")
    assert locate(tmp_path, "messages", input_file_path="a.jsonl").train == (tmp_path / "a.jsonl",)
    assert locate(tmp_path, "messages", input_file_path="b.jsonl").train == (tmp_path / "messages/b.jsonl",)
    assert locate(tmp_path, "messages", input_file_path=str(tmp_path / "a.jsonl")).train == (tmp_path / "a.jsonl",)
    with pytest.raises(DataMissingError, match=r"messages: no file .*c\.jsonl nor .*messages/c\.jsonl; put it there"):
        locate(tmp_path, "messages", input_file_path="c.jsonl")


def test_missing_data_says_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        DataMissingError, match=r"no folder .*gsm8k: put the files of huggingface\.co/datasets/openai/gsm8k"
    ):
        locate(tmp_path, "gsm8k")
    with pytest.raises(DataMissingError, match=r"pip install 'oasst-megatron\[hub\]'"):
        locate(tmp_path, "gsm8k")
    with pytest.raises(DataMissingError, match=r"messages: no folder .* or name one file with input_file_path"):
        locate(tmp_path, "messages")
    touch(tmp_path, "joke/README.md", "wmt2019_zh-en/test.jsonl")
    with pytest.raises(DataMissingError, match=r"joke: no file with records in .* it has README\.md"):
        locate(tmp_path, "joke")
    with pytest.raises(DataMissingError, match=r"wmt2019_zh-en: no file train\.jsonl"):
        locate(tmp_path, "wmt2019_zh-en")


def test_what_is_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, Any] = {}

    def snapshot(repo_id: str, **keywords: Any) -> str:
        asked.update(keywords, repo_id=repo_id)
        folder = "snapshots/abc123/main"
        touch(tmp_path, f"{folder}/train-00000-of-00001.parquet", f"{folder}/test-00000-of-00001.parquet")
        return str(tmp_path / "snapshots/abc123")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    entry = DatasetEntry("gsm8k", revision="abc123")
    files = locate_files(entry, make_source("gsm8k", {}).layout, tmp_path, "cache")
    assert names(files.train) == ["train-00000-of-00001.parquet"] and names(files.val) == [
        "test-00000-of-00001.parquet"
    ]
    assert asked == {
        "repo_id": "openai/gsm8k",
        "repo_type": "dataset",
        "revision": "abc123",
        "allow_patterns": ["main/*.parquet"],
        "cache_dir": "cache",
    }
    assert capsys.readouterr().err == ""
    locate_files(DatasetEntry("gsm8k"), make_source("gsm8k", {}).layout, tmp_path, "cache")
    assert asked["revision"] == "cc7b047b6e5bb11b4f1af84efc572db110a51b3c"
    locate_files(DatasetEntry("joke"), make_source("joke", {}).layout, tmp_path, "cache")
    assert "theblackcat102/joke_explaination: 'main' is commit abc123 today; `revision: abc123`" in (
        capsys.readouterr().err
    )


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(*arguments: Any, **keywords: Any) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    source = make_source("gsm8k", {})
    assert source.hub is not None
    with pytest.raises(DataMissingError, match=r"the download failed \(no route to host\): put the files"):
        fetch(source.hub, tmp_path, None)


def test_globs_and_files_as_data_path(tmp_path: Path) -> None:
    touch(tmp_path, "messages/a/1.jsonl", "messages/a/2.jsonl", "messages/b/3.jsonl", "messages/b/4.csv")
    assert names(locate(tmp_path, "messages", input_file_path="a/*").train) == ["1.jsonl", "2.jsonl"]
    assert names(locate(tmp_path, "messages", input_file_path="**/*.jsonl").train) == ["1.jsonl", "2.jsonl", "3.jsonl"]
    assert names(locate(tmp_path, "messages", input_file_path=f"{tmp_path}/messages/b/*").train) == ["3.jsonl", "4.csv"]
    entry = DatasetEntry("messages", data_path=str(tmp_path / "messages/b/4.csv"))
    assert names(locate_files(entry, make_source("messages", {}).layout, tmp_path, None).train) == ["4.csv"]


def test_the_hubs_parquet_gives_what_json_lines_give(tmp_path: Path, build_toy: BuildToy) -> None:
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(9))
    write_jsonl(tmp_path / "data/gsm8k/test.jsonl", question_records(2))
    _, plain = build_toy(["gsm8k"])
    for split, count in (("train", 9), ("test", 2)):
        path = tmp_path / "hub/gsm8k/main" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(question_records(count)), path)
    _, hub = build_toy(["gsm8k"], data_dir=str(tmp_path / "hub"), output_dir=str(tmp_path / "out2"))
    for name in ("toy-train-text.bin", "toy-train-role.idx", "toy-val-text.bin"):
        assert (plain / name).read_bytes() == (hub / name).read_bytes()
