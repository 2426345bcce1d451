"""Write a new file from front to back, bypassing the page cache, and compute its SHA-256.

    file = NewFile(path);  file.write(header);  file.align(64);  file.write(data);  digest = file.close()

`write` copies into a buffer. One thread hashes full buffers and another writes them to disk, so that reading, hashing
and writing overlap. Direct writes (O_DIRECT) copy the bytes once instead of twice and leave the page cache to other
files. File systems that refuse direct writes are written through the cache.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

BUFFER_BYTES = 1 << 22
NUM_BUFFERS = 4
BLOCK_BYTES = 1 << 12
"""Addresses, offsets and lengths of direct writes are multiples of this number of bytes, as most disks require."""
CACHED_BYTES = 1 << 18
"""Bytes of one write through the page cache. Larger writes are slower: the kernel searches for large free pages."""
O_DIRECT = getattr(os, "O_DIRECT", 0)


class NewFile:
    """A new file that is hashed while it is written. Its path must not exist.

    `close` completes the file and returns its SHA-256. `abandon` leaves it incomplete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._is_open, self._is_direct = True, False
        self._set_direct(True)
        self._digest = hashlib.sha256()
        self._hashing, self._writing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._start, self._used = 0, 0  # offset of the current buffer in the file, and bytes in it so far
        self._free = [_new_buffer() for _ in range(NUM_BUFFERS)]
        self._in_flight: deque[tuple[np.ndarray, list[Future[None]]]] = deque()

    def write(self, data: bytes | memoryview) -> int:
        """Append all of `data`, and return its length.

        Raises OSError with the file's name, e.g. when the disk is full.
        """
        rest = np.frombuffer(data, np.uint8)
        while len(rest):
            if not self._free:
                self._wait_for_buffer()
            count = min(len(rest), BUFFER_BYTES - self._used)
            self._free[-1][self._used : self._used + count] = rest[:count]
            self._used, rest = self._used + count, rest[count:]
            if self._used == BUFFER_BYTES:
                self._hand_over()
        return len(data)

    def align(self, multiple: int) -> None:
        """Append zeros until the length of the file is a multiple of `multiple` bytes."""
        self.write(bytes(-self.tell() % multiple))

    def tell(self) -> int:
        return self._start + self._used

    def close(self) -> str:
        """Write the buffered bytes, close the file, and return its SHA-256.

        The disk may receive the bytes later: publishing the folder flushes them.
        """
        try:
            if self._used:
                self._hand_over()
            while self._in_flight:
                self._wait_for_buffer()
        finally:
            self.abandon()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Close the file without writing the buffered bytes. A second call does nothing."""
        self._hashing.shutdown(cancel_futures=True)
        self._writing.shutdown(cancel_futures=True)
        if self._is_open:
            os.close(self._descriptor)
        self._is_open = False

    def _hand_over(self) -> None:
        """Pass the current buffer to the thread that hashes it and to the thread that writes it."""
        buffer = self._free.pop()
        data = buffer.data[: self._used]
        jobs = [self._hashing.submit(self._digest.update, data), self._writing.submit(self._put, data, self._start)]
        self._in_flight.append((buffer, jobs))
        self._start, self._used = self._start + self._used, 0

    def _wait_for_buffer(self) -> None:
        """Wait until the oldest buffer is hashed and written, and add it to the free buffers."""
        buffer, jobs = self._in_flight.popleft()
        for job in jobs:
            job.result()
        self._free.append(buffer)

    def _put(self, data: memoryview, offset: int) -> None:
        if len(data) % BLOCK_BYTES:
            self._set_direct(False)  # only the end of the file has such a length
        start = offset
        while len(data):
            try:
                done = os.pwrite(self._descriptor, data if self._is_direct else data[:CACHED_BYTES], offset)
            except OSError as error:
                if not (self._is_direct and error.errno == errno.EINVAL):
                    raise OSError(error.errno, error.strerror, str(self.path)) from None
                self._set_direct(False)  # the disk has larger blocks, or this is the rest of a short write
                continue
            data, offset = data[done:], offset + done
        if not self._is_direct and hasattr(os, "posix_fadvise"):
            # Start writing these pages now: otherwise the disk idles until the fsync.
            os.posix_fadvise(self._descriptor, start, offset - start, os.POSIX_FADV_DONTNEED)

    def _set_direct(self, is_direct: bool) -> None:
        """Switch direct writes (O_DIRECT) on or off. If the file system refuses them, they stay off."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~O_DIRECT
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | O_DIRECT if is_direct else flags)
            self._is_direct = is_direct and O_DIRECT != 0
        except OSError:
            self._is_direct = False


def _new_buffer() -> np.ndarray:
    """Return a buffer of BUFFER_BYTES at an address that direct writes accept."""
    memory = mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)
