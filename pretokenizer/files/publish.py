"""Writing so that nothing half-written is ever seen under its final name. (SHARED with trainer and converter.)

Files are written beside their target, flushed to disk and renamed; folders likewise. `SHA256SUMS` in a finished folder
is in the format of `sha256sum`, so `cd FOLDER && sha256sum -c SHA256SUMS` checks it without this project.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def fsync_path(path: str | Path) -> None:
    """Flush a file or a folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside that names no file (a full disk tells only that it is full) gets the name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_text_atomic(path: str | Path, text: str, sync: bool = True) -> None:
    """Write `text` as UTF-8 under `path`: complete, or not at all.

    `sync` = False leaves flushing to the disk to publish_folder.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync:
        fsync_path(path.parent)


def write_json_atomic(path: str | Path, value: Any, sync: bool = True) -> None:
    """Write `value` as indented JSON, keys in the order given, one newline at the end."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", sync)


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError or ValueError, for endless nesting too."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def publish_folder(staging: Path, final: Path) -> None:
    """Give the finished folder `staging` its name `final` (same file system); everything below is flushed first.

    Raises FileExistsError when `final` exists: what is published is never overwritten. Remove it first if you mean it.
    """
    for path in sorted(staging.rglob("*")):
        fsync_path(path)
    fsync_path(staging)
    if final.exists():
        raise FileExistsError(f"{final} exists already; remove it or choose another folder")
    staging.rename(final)
    fsync_path(final.parent)


def forbid_world_writable() -> None:
    """From now on no file that this process makes can be written by everyone, even where the umask allows it."""
    os.umask(_umask() | 0o002)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
