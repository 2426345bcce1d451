"""A new file that takes bytes at any offset, and whose bytes are on their way to the disk while more are being written.

file = NewFile(path);  file.write(header);  file.write_at(data, 4096);  file.close()
"""

from __future__ import annotations

import os
from pathlib import Path

WRITE_BYTES = 1 << 18
"""Of one call. With much more the kernel looks for large contiguous pages, which costs several times the copying."""
FLUSH_BYTES = 1 << 26


class NewFile:
    """Open for writing from its making on; the path must not exist."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, data: bytes | memoryview) -> int:
        """Appends all of `data` to what `write` has written."""
        self.write_at(data, self.position)
        self.position += len(data)
        return len(data)

    def align(self, multiple: int) -> None:
        """Moves the position up to a multiple; the bytes between are zero."""
        self.position += -self.position % multiple

    def tell(self) -> int:
        return self.position

    def write_at(self, data: bytes | memoryview, offset: int) -> None:
        """Writes all of `data` at `offset`. Raises OSError, e.g. when the disk is full."""
        assert self._descriptor is not None, "the file is closed"
        view, start = memoryview(data), offset
        while len(view):
            done = os.pwrite(self._descriptor, view[:WRITE_BYTES], offset)
            view, offset = view[done:], offset + done
            if offset - start >= FLUSH_BYTES or not len(view):
                # Starts writing these pages to the disk without waiting for it: otherwise it idles until the fsync.
                os.posix_fadvise(self._descriptor, start, offset - start, os.POSIX_FADV_DONTNEED)
                start = offset

    def close(self) -> None:
        """Closes the file; a second call does nothing. Publishing the folder flushes it to the disk."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
