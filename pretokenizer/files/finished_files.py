"""Finished files, hashed and flushed to the disk in threads while others are still being made.

with FinishedFiles(threads=2) as finished:
    finished.add(path)                     # returns at once
    finished.record(path).sha256           # waits; a file that was not added is hashed now
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from pretokenizer.files.manifest import FileRecord
from pretokenizer.files.publish import fsync_path, sha256_file


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
