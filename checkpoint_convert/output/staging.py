"""Check that the target of a conversion is free, and provide the staging folder of CKPT_DIR/release.

A conversion writes into a hidden folder that is renamed when it is complete. An error removes it. A lock, which is
released when the process ends, keeps a second conversion out of the same folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.folder import RELEASE, TRACKER, folder_name, remove_stale_staging, staging_folder
from pretokenizer.files.publish import locked, naming


@contextmanager
def release_staging(checkpoint_dir: Path) -> Iterator[Path]:
    """Yield the folder in which CKPT_DIR/release is built, and remove it after an error.

    The caller publishes it. Raises ConvertError when CKPT_DIR holds checkpoints already, and BusyError when another
    conversion writes to CKPT_DIR.
    """
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
def temporary_release(hf_dir: Path) -> Iterator[Path]:
    """Yield an empty checkpoint folder beside `hf_dir`, on the same disk, and remove it afterwards."""
    hf_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{hf_dir.name}.checkpoint-", dir=hf_dir.parent) as folder:
        yield Path(folder)


def check_target(folder: Path) -> None:
    """Check that a conversion can write a new folder to the path `folder`. An empty folder there is removed.

    Raises ConvertError if anything else exists there.
    """
    if folder.is_symlink():
        raise ConvertError(f"{folder}: is a symbolic link, which no folder can replace; name the folder it points to")
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        raise ConvertError(f"{folder}: exists already; remove it or choose another folder")
