"""Write files and folders so that nobody sees a half-written one under its final name. (SHARED)

    with staged_folder(Path("output/mix"), replace=True) as staging:
        (staging / "a.txt").write_text("...")
    # output/mix now holds a.txt. After an error or a kill its old contents are unchanged.

A file or folder is written under a hidden name beside its target, flushed to disk, and renamed.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class BusyError(ValueError):
    """Another process is writing the same folder."""


@contextlib.contextmanager
def staged_folder(final: Path, *, staging: Path | None = None, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder, and publish it as `final` when the block ends without an error.

    The block writes into `staging`, by default the hidden folder `.NAME.staging` beside `final`. An error in the block
    removes the staging folder. With `replace`, the new folder replaces an existing `final`. Raises BusyError when
    another process writes into the same staging folder, and FileExistsError when `final` exists and `replace` is false.
    """
    if not replace:
        _refuse(final)
    staging = staging or final.with_name(f".{final.name}.staging")
    staging.mkdir(parents=True, exist_ok=True)
    with locked(staging, final):
        try:
            with naming(staging):
                _empty(staging)  # a killed process may have left files here
                yield staging
            publish_folder(staging, final, replace)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def publish_folder(staging: Path, final: Path, replace: bool = False) -> None:
    """Flush everything in `staging` to disk, then rename it to `final` on the same file system.

    With `replace`, an existing `final` is renamed first and removed last. Without `replace`, an existing `final` raises
    FileExistsError.
    """
    for path in sorted(staging.rglob("*")):
        fsync_path(path)
    fsync_path(staging)
    if not replace:
        _refuse(final)
    replaced = set_aside(final)
    try:
        staging.rename(final)
    except OSError:
        if replaced:
            replaced.rename(final)
        raise
    fsync_path(final.parent)
    if replace:  # a killed process may have left an old folder, even if this call set none aside
        shutil.rmtree(_aside(final), ignore_errors=True)


def _refuse(final: Path) -> None:
    if final.exists():
        raise FileExistsError(f"{final} exists already; remove it or choose another folder")


def set_aside(final: Path) -> Path | None:
    """Rename a published folder to the hidden `.NAME.replaced` and return the new path, for the caller to remove.

    The rename keeps a half-removed folder from being visible under its final name. Return None when `final` does not
    exist.
    """
    if not final.exists():
        return None
    shutil.rmtree(_aside(final), ignore_errors=True)
    return final.rename(_aside(final))


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.replaced")


@contextlib.contextmanager
def locked(folder: Path, target: Path, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on `folder` within the block, even if the folder is renamed there.

    The lock is released when the process ends, even if it is killed. Raises BusyError when another process still holds
    the lock after `patience_seconds`, or has renamed the folder meanwhile. `target` is the path that the message names.
    On a file system without locks, the block runs unlocked.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _lock(descriptor, patience_seconds):
            raise BusyError(
                f"{target}: {_holder(descriptor)} is writing it; wait until it ends, or choose another folder"
            )
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise BusyError(f"{target}: another process finished writing it just now; run the command again")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, patience_seconds: float) -> bool:
    """Lock an open folder. Return False when another process still holds the lock after `patience_seconds`.

    Return True without a lock on a file system that has no locks.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        except OSError:  # NFS has no locks on folders
            return True


def _holder(descriptor: int) -> str:
    """Return `process PID` for the process that holds the lock on an open folder, or `another process` if unknown."""
    inode = str(os.fstat(descriptor).st_ino)
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():  # 1: FLOCK ADVISORY WRITE 4242 00:2f:9301 0 EOF
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                return f"process {fields[4]}"
    return "another process"


def _empty(folder: Path) -> None:
    """Remove everything in `folder`. The folder itself stays, because a lock may be on it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def fsync_path(path: str | Path) -> None:
    """Flush a file's contents to disk or, if `path` is a folder, the folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(Path(path)):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that the block raises without a file name, such as the error for a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_text_atomic(path: str | Path, text: str, sync: bool = True) -> None:
    """Write `text` to `path` as UTF-8, completely or not at all.

    With `sync` false the file is not flushed to disk; publish_folder can flush it later.
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
    """Write `value` to `path` as indented JSON, completely or not at all. Keys keep their order."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", sync)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises OSError for an unreadable file, and ValueError for invalid JSON or values that are nested too deep.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("its values are nested too deep") from None


def read_json_object(path: Path, error: Callable[[str], Exception], remedy: str = "") -> dict[str, Any] | None:
    """Return the object in a JSON file, or None when there is no such file.

    For an unreadable file or another value, raises `error`, called with a message that names the file and the remedy.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot read: {problem}{remedy}") from None
    if not isinstance(value, dict):
        raise error(f"{path}: expected a JSON object{remedy}")
    return value


def forbid_world_writable() -> None:
    """Set the umask so that files created by this process are never writable by everyone."""
    os.umask(_umask() | 0o002)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
