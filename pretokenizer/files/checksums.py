"""SHA-256 of files and folders. (SHARED with trainer and converter.)

`SHA256SUMS` in a finished folder is in the format of `sha256sum`, so `cd FOLDER && sha256sum -c SHA256SUMS` checks it
without this project.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pretokenizer.files.publish import fsync_path, write_text_atomic

SHA256SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class FileRecord:
    """One file, read or written."""

    bytes: int
    sha256: str


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sha256sums(folder: Path, known: Mapping[Path, str] | None = None) -> None:
    """Write `SHA256SUMS` over all files below `folder` but itself, sorted by name; `known` digests are not computed."""
    digests = known or {}
    lines = [f"{digests.get(path) or sha256_file(path)}  {name}\n" for name, path in _files_below(folder).items()]
    write_text_atomic(folder / SHA256SUMS, "".join(lines))


def verify_sha256sums(folder: Path, part: int = 0, num_parts: int = 1) -> list[str]:
    """Problems of a folder against its `SHA256SUMS`, one line each with the file's name; an empty list means sound.

    With `num_parts` only every so many-th file is read: several processes share the work, each with its own `part`.
    """
    sums_path = folder / SHA256SUMS
    if not sums_path.is_file():
        return [f"{sums_path}: missing, so the folder cannot be verified"]
    files = _files_below(folder)
    problems, listed = [], set()
    for line_number, line in enumerate(sums_path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            problems.append(f"{sums_path}:{line_number}: not a line of sha256sum")
            continue
        listed.add(name)
        if name not in files:
            problems.append(f"{folder / name}: missing")
        elif line_number % num_parts == part and sha256_file(files[name]) != digest:
            problems.append(f"{folder / name}: contents differ from {SHA256SUMS}")
    problems += [f"{folder / name}: not listed in {SHA256SUMS}" for name in files if name not in listed]
    return problems


def _files_below(folder: Path) -> dict[str, Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        name: path for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in paths) if name != SHA256SUMS
    }


class FinishedFiles:
    """Files that nobody writes to any more."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._records: dict[Path, Future[FileRecord]] = {}

    def __enter__(self) -> "FinishedFiles":
        return self

    def add(self, path: Path) -> None:
        """Begin with a file."""
        if path not in self._records:
            self._records[path] = self._pool.submit(_settle, path)

    def record(self, path: Path) -> FileRecord:
        """Size and SHA-256. Raises OSError."""
        self.add(path)
        return self._records[path].result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _settle(path: Path) -> FileRecord:
    record = FileRecord(path.stat().st_size, sha256_file(path))
    fsync_path(path)
    return record
