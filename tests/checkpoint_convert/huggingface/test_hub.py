"""Models are fetched from the hub and uploaded to it. A class that records its calls replaces the hub's API."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError

from checkpoint_convert.__main__ import main
from checkpoint_convert.huggingface.hub import check_hub, fetched, push
from checkpoint_convert.tensors.tensor import ConvertError


class Recorder:
    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012 - shared on purpose

    def create_repo(self, repository: str, **options: Any) -> str:
        self.calls.append((repository, options))
        return f"https://hub.example/{repository}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Recorder)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    return Recorder


def test_to_hf_uploads_after_verifying(
    converted: Callable[[str], Path], tmp_path: Path, recorder: type[Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["to-hf", str(converted("llama_gqa")), str(tmp_path / "hf"), "--push_to_hub", "org/name"]

    assert main(arguments) == 0

    message = {"commit_message": "Upload converted weights"}
    assert recorder.calls == [
        ("org/name", {"exist_ok": True}),
        ("upload", {"repo_id": "org/name", "folder_path": tmp_path / "hf", **message}),
    ]
    assert "\n# name\n" in (tmp_path / "hf" / "README.md").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == "uploaded to https://hub.example/org/name"


def test_a_missing_token_is_an_error_before_any_work(
    converted: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)

    assert main(["to-hf", str(converted("llama_gqa")), str(tmp_path / "hf"), "--push_to_hub", "org/name"]) == 1
    assert "needs a token: set HF_TOKEN in the environment" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(ConvertError, match="expected ORG/NAME"):
        check_hub("name")


@pytest.mark.parametrize("error", [OSError("no route to host"), HTTPError("no route to host")])
def test_a_failed_upload_says_that_the_folder_is_complete(
    error: Exception, tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Recorder, **options: Any) -> None:
        raise error

    monkeypatch.setattr(recorder, "upload_folder", fail)

    with pytest.raises(ConvertError, match="is complete, but was not uploaded to org/name: no route to host"):
        push(tmp_path, "org/name")


def test_from_hf_fetches_a_model_of_the_hub(
    hf_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, ignore_patterns: list[str]) -> str:
        assert (name, "*.gguf" in ignore_patterns) == ("org/name", True)
        return str(shutil.copytree(hf_folder("llama_gqa"), tmp_path / "snapshot"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    assert main(["from-hf", "org/name", "ckpt"]) == 0
    assert (tmp_path / "ckpt" / "release" / "SHA256SUMS").is_file()


def test_a_model_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **options: Any) -> str:
        raise HTTPError("404: no such repository")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConvertError, match=r"org/name: no such folder, .*: 404: no such repository"):
        fetched(Path("org/name"))


def test_a_folder_is_never_fetched_and_the_library_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "folder").mkdir(parents=True)

    assert fetched(Path("org/folder")) == Path("org/folder")
    assert fetched(Path("org/name")) == Path("org/name")
