"""A killed conversion leaves nothing that looks finished."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.output.staging import check_target, release_staging
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.folder import TRACKER, publish_checkpoint
from pretokenizer.files.publish import BusyError, staged_folder
from tests.paths import ROOT

KILL_AT_THE_NINTH = """
import os, sys
from checkpoint_convert.tensors import hashed_file as new_file
from checkpoint_convert.__main__ import main
writes = []
def write(self, data, original=new_file.NewFile.write):
    writes.append(len(data))
    if len(writes) == 9:
        os.kill(os.getpid(), 9)
    return original(self, data)
new_file.NewFile.write = write
main(sys.argv[1:])
"""


def run_and_kill(*arguments: object) -> None:
    command = [sys.executable, "-c", KILL_AT_THE_NINTH, *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert process.returncode == -9, process.stderr


def test_a_killed_conversion_publishes_nothing_and_can_be_run_again(
    hf_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    ckpt, out = tmp_path / "ckpt", tmp_path / "hf"

    run_and_kill("from-hf", hf_folder("llama_gqa"), ckpt)
    assert [path.name for path in ckpt.iterdir()] == [".release.staging"]
    from_hf(hf_folder("llama_gqa"), ckpt, ImportOptions())
    assert sorted(path.name for path in ckpt.iterdir()) == ["latest_checkpointed_iteration.txt", "release"]

    run_and_kill("to-hf", ckpt, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hf.staging", "ckpt"]
    to_hf(ckpt, out, ExportOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt", "hf"]


def test_staging_is_removed_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), release_staging(tmp_path / "ckpt") as staging:
        (staging / "part").write_text("x")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "hf") as staging:
        (staging / "part").write_text("x")
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []


def test_an_empty_target_gives_way_and_a_full_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()

    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConvertError, match="file: exists already"):
        check_target(tmp_path / "file")


def test_a_link_as_target_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, target in (("link", "empty"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(ConvertError, match=f"{name}: is a symbolic link"):
            check_target(tmp_path / name)


@pytest.mark.parametrize("staging_of", [staged_folder, release_staging])
def test_a_second_conversion_into_one_folder_is_refused(
    staging_of: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    with staging_of(tmp_path / "out") as first:
        (first / "part").write_text("mine")
        with (
            pytest.raises(BusyError, match="is writing it; wait until it ends"),
            staging_of(tmp_path / "out"),
        ):
            pass
        assert (first / "part").read_text() == "mine"
        with staging_of(tmp_path / "other") as other:
            assert list(other.iterdir()) == []


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".hf.staging" / "folder").mkdir(parents=True)
    (tmp_path / ".hf.staging" / "folder" / "file").write_text("old")
    (tmp_path / ".hf.staging" / "link").symlink_to(tmp_path)
    with staged_folder(tmp_path / "hf") as staging:
        assert list(staging.iterdir()) == []
    assert tmp_path.is_dir()


def test_a_conversion_killed_right_before_its_name_starts_over(tmp_path: Path) -> None:
    """The kill comes after the tracker is written and before the folder is renamed."""
    (tmp_path / "ckpt" / ".release.staging").mkdir(parents=True)
    (tmp_path / "ckpt" / TRACKER).write_text("release\n")
    with release_staging(tmp_path / "ckpt") as staging:
        (staging / "a").write_text("a")
        publish_checkpoint(tmp_path / "ckpt", None)
    assert sorted(path.name for path in (tmp_path / "ckpt" / "release").iterdir()) == ["SHA256SUMS", "a"]
    assert (tmp_path / "ckpt" / TRACKER).read_text() == "release\n"
