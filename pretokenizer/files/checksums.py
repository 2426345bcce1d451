"""SHA-256 checksums of files and folders. (SHARED)

`SHA256SUMS` in a finished folder has the format of `sha256sum`, so `cd FOLDER && sha256sum -c SHA256SUMS` verifies the
folder without this project.

    with FinishedFiles(threads=2) as finished:
        finished.add(path)                     # returns at once; a thread hashes the file and flushes it to disk
        finished.record(path).sha256           # waits for the thread
"""

import hashlib
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pretokenizer.files.publish import fsync_path, write_text_atomic

SHA256SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 checksum of one file."""

    bytes: int
    sha256: str


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sha256sums(folder: Path, known: Mapping[Path, str] | None = None) -> None:
    """Write `folder/SHA256SUMS` with the checksum of every other file below `folder`, sorted by name.

    `known` maps paths to checksums that need not be computed.
    """
    digests = known or {}
    lines = [f"{digests.get(path) or sha256_file(path)}  {name}\n" for name, path in _files_below(folder).items()]
    write_text_atomic(folder / SHA256SUMS, "".join(lines))


def verify_sha256sums(folder: Path, part: int = 0, num_parts: int = 1) -> list[str]:
    """Compare the files in a folder with its `SHA256SUMS`. Return one line for each problem, or [] when all agree.

    Several processes can share the work: process `part` (from 0) of `num_parts` hashes every num_parts-th file. Each
    process compares the names of all files.
    """
    sums_path = folder / SHA256SUMS
    if not sums_path.is_file():
        return [f"{sums_path}: missing, so the folder cannot be verified"]
    files = _files_below(folder)
    problems, listed = [], set()
    for line_number, line in enumerate(sums_path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            problems.append(f"{sums_path}:{line_number}: is not a line of sha256sum")
            continue
        listed.add(name)
        if name not in files:
            problems.append(f"{folder / name}: missing")
        elif line_number % num_parts == part and sha256_file(files[name]) != digest:
            problems.append(f"{folder / name}: contents differ from {SHA256SUMS}")
    problems += [f"{folder / name}: not listed in {SHA256SUMS}" for name in files if name not in listed]
    return problems


def differing_files(folder: Path, names: Collection[str]) -> list[Path]:
    """Return the paths of the files among `names` whose contents differ from their checksum in `folder/SHA256SUMS`.

    A name that SHA256SUMS does not list is ignored. Raises OSError when a file cannot be read.
    """
    lines = (folder / SHA256SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name in names}
    return [folder / name for name, digest in listed.items() if sha256_file(folder / name) != digest]


def _files_below(folder: Path) -> dict[str, Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        name: path for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in paths) if name != SHA256SUMS
    }


class FinishedFiles:
    """Computes checksums of finished files and flushes the files to disk, in threads beside the caller's work.

    Call `record` for each file before the `with` block ends: the end cancels the files that no thread has begun.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._records: dict[Path, Future[FileRecord]] = {}

    def __enter__(self) -> "FinishedFiles":
        return self

    def add(self, path: Path) -> None:
        """Start to hash a file and flush it to disk in a thread. The file must not change any more."""
        if path not in self._records:
            self._records[path] = self._pool.submit(_settle, path)

    def record(self, path: Path) -> FileRecord:
        """Wait for a file's thread and return the file's size and checksum, adding the file first if necessary.

        Raises OSError when the file cannot be read.
        """
        self.add(path)
        return self._records[path].result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _settle(path: Path) -> FileRecord:
    """Return a file's size and checksum, and flush the file to disk."""
    record = FileRecord(path.stat().st_size, sha256_file(path))
    fsync_path(path)
    return record
