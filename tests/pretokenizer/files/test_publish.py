"""Files and folders get their final name only when complete, and a lock admits one process."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pretokenizer.files.publish import (
    BusyError,
    locked,
    naming,
    publish_folder,
    set_aside,
    staged_folder,
    write_json_atomic,
    write_text_atomic,
)


def test_write_text_leaves_nothing_else(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "one\n")
    write_text_atomic(tmp_path / "a.txt", "zwei ü\n")
    assert (tmp_path / "a.txt").read_bytes() == "zwei ü\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(tmp_path / "a.txt", "half \ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_write_json_keeps_key_order(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'


def test_publish_refuses_an_existing_folder(tmp_path: Path) -> None:
    for name in ("staging", "final"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match="final exists already"):
        publish_folder(tmp_path / "staging", tmp_path / "final")
    (tmp_path / "final").rmdir()
    (tmp_path / "staging" / "x").write_text("x")
    publish_folder(tmp_path / "staging", tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "x"
    assert not (tmp_path / "staging").exists()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_staged_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "final") as staging:
        (staging / "x").write_text("new")
        assert names(tmp_path) == [".final.staging"]
    assert names(tmp_path) == ["final"]
    assert (tmp_path / "final" / "x").read_text() == "new"


def test_a_staged_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "final", replace=True) as staging:
        (staging / "x").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["final"]
    assert (tmp_path / "final" / "x").read_text() == "old"


def test_a_staged_folder_replaces_only_when_told(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "old").write_text("old")
    with pytest.raises(FileExistsError, match="final exists already"), staged_folder(tmp_path / "final"):
        pass
    with staged_folder(tmp_path / "final", replace=True) as staging:
        (staging / "new").write_text("new")
    assert names(tmp_path) == ["final"]
    assert names(tmp_path / "final") == ["new"]


def test_a_staged_folder_starts_empty_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / ".final.staging" / "sub").mkdir(parents=True)
    (tmp_path / ".final.staging" / "sub" / "half").write_text("half")
    (tmp_path / ".final.replaced").mkdir()
    with staged_folder(tmp_path / "final", replace=True) as staging:
        (staging / "x").write_text("x")
    assert names(tmp_path) == ["final"]
    assert names(tmp_path / "final") == ["x"]


def test_a_rename_that_fails_restores_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("staging", "final"):
        (tmp_path / name).mkdir()
    rename = Path.rename

    def fail_for_staging(self: Path, target: Path) -> Path:
        if self.name == "staging":
            raise OSError(errno.EIO, "disk error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_staging)
    with pytest.raises(OSError, match="disk error"):
        publish_folder(tmp_path / "staging", tmp_path / "final", replace=True)
    assert names(tmp_path) == ["final", "staging"]


def test_set_aside_hides_a_folder(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "final") is None
    (tmp_path / "final").mkdir()
    assert set_aside(tmp_path / "final") == tmp_path / ".final.replaced"
    assert names(tmp_path) == [".final.replaced"]


def test_a_lock_names_the_process_that_holds_it_and_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pretokenizer.files.publish import locked\n"
        "with locked(Path(sys.argv[1]), Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        holder = f"process {other.pid}" if sys.platform == "linux" else "another process"
        busy = pytest.raises(BusyError, match=f"target: {re.escape(holder)} is writing it")
        with busy, locked(tmp_path, Path("target")):
            pass
        other.kill()
    with locked(tmp_path, Path("target")):
        pass


def test_a_lock_on_a_folder_that_was_renamed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "staging").mkdir()
    open_folder = os.open

    def open_then_publish(path: Path, flags: int) -> int:
        descriptor = open_folder(path, flags)
        (tmp_path / "staging").rename(tmp_path / "final")
        return descriptor

    monkeypatch.setattr(os, "open", open_then_publish)
    with pytest.raises(BusyError, match="run the command again"), locked(tmp_path / "staging", tmp_path / "final"):
        pass


def test_naming_adds_a_path_only_where_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, naming(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as missing, naming(tmp_path):
        (tmp_path / "x").read_text()
    assert missing.value.filename == str(tmp_path / "x")
