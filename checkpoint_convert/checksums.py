"""SHA-256 of finished files, computed beside the writing of the next one.

with Checksums() as checksums:
    checksums.add(path)            # returns at once
    checksums.known()              # {path: digest}, when all are there
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from pretokenizer.publish import sha256_file


class Checksums:
    """One worker thread; hashing runs outside Python's lock."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._digests: dict[Path, Future[str]] = {}

    def add(self, path: Path) -> None:
        """Takes a file that is complete."""
        self._digests[path] = self._executor.submit(sha256_file, path)

    def known(self) -> dict[Path, str]:
        """All digests, for write_sha256sums. Raises OSError when a file could not be read."""
        return {path: digest.result() for path, digest in self._digests.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)
