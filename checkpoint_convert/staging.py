"""Folders are built under a hidden name and renamed when complete; when anything goes wrong, nothing is left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint_convert.tensors import ConvertError
from megatron_train.state.checkpoint_folder import RELEASE, TRACKER, folder_name, remove_stale_staging, staging_folder
from pretokenizer.publish import naming


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    if staging.is_dir():
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        with naming(staging):
            yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_target(folder: Path) -> None:
    """Raises ConvertError when something is there already; an empty folder gives way."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        raise ConvertError(f"{folder}: exists already; remove it or choose another folder")
