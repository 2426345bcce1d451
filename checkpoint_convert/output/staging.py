"""Folders are built under a hidden name and renamed when complete; when anything goes wrong, nothing is left.

Two conversions into one folder do not meet: the second finds it locked. A lock ends with its process, killed or not.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.folder import RELEASE, TRACKER, folder_name, remove_stale_staging, staging_folder
from pretokenizer.files.publish import naming


@contextmanager
def release_staging(checkpoint_dir: Path) -> Iterator[Path]:
    """The folder in which CKPT_DIR/release is built; removed when anything goes wrong."""
    release, tracker = checkpoint_dir / folder_name(None), checkpoint_dir / TRACKER
    if release.exists():
        raise ConvertError(f"{release}: exists already; remove it or choose another folder")
    if tracker.is_file() and tracker.read_text().strip() != RELEASE:
        raise ConvertError(
            f"{tracker}: names checkpoint {tracker.read_text().strip()!r}; converted weights need a folder of their own"
        )
    is_new = not checkpoint_dir.exists()
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    with locked(checkpoint_dir, checkpoint_dir):
        remove_stale_staging(checkpoint_dir)
        staging = staging_folder(checkpoint_dir, None)
        staging.mkdir()
        try:
            with naming(staging):
                yield staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            if not release.exists():
                tracker.unlink(missing_ok=True)
            if is_new and not any(checkpoint_dir.iterdir()):
                checkpoint_dir.rmdir()
            raise


@contextmanager
def folder_staging(folder: Path) -> Iterator[Path]:
    """The hidden folder beside `folder` in which it is built; removed when anything goes wrong."""
    staging = folder.parent / f".{folder.name}.staging"
    staging.mkdir(parents=True, exist_ok=True)
    with locked(staging, folder):
        try:
            with naming(staging):
                _empty(staging)  # what a killed conversion left: its lock went with it
                yield staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


@contextmanager
def locked(folder: Path, target: Path) -> Iterator[None]:
    """Holds the only lock on a folder, whatever it is renamed to. Raises ConvertError when another process has it."""
    busy = ConvertError(f"{target}: another conversion is writing it; wait for its end or choose another folder")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # a file system without locks (NFS has none on folders)
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise busy  # it ended between opening and locking
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_target(folder: Path) -> None:
    """Raises ConvertError when something is there already; an empty folder gives way."""
    if folder.is_symlink():
        raise ConvertError(f"{folder}: is a symbolic link, which no folder can replace; name the folder it points to")
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        raise ConvertError(f"{folder}: exists already; remove it or choose another folder")
