"""Decompress gzip, zstandard, xz and bzip2 streams, and refuse a small file that expands until it fills the memory.

stream = decompressed(file, "gzip")
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import zstandard

MAX_RATIO = 250
"""Maximum number of decompressed bytes for each compressed byte.

Text expands 3 to 20 times; zeros expand 1,000 times in gzip and 30,000 times in zstd.
"""
FREE_BYTES = 256 << 20
"""Number of decompressed bytes up to which MAX_RATIO is not checked."""
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""Exceptions that the decompressors raise for damaged or truncated streams, besides OSError."""
_INPUT_BYTES = 1 << 13
"""Number of compressed bytes decompressed at a time. Their decompressed bytes, at most 256 MiB, are in memory."""
_XZ_MEMORY_BYTES = 256 << 20


class DecompressionError(ValueError):
    """A compressed stream expands beyond FREE_BYTES and MAX_RATIO, so reading it could fill the memory."""


def decompressed(file: BinaryIO, kind: str) -> BinaryIO:
    """Return the decompressed stream of a gzip, zstd, xz or bz2 file. The file may have several members or frames.

    Reading raises DecompressionError beyond FREE_BYTES and MAX_RATIO, OSError or one of DAMAGED for a damaged file, and
    EOFError for a truncated one.
    """
    counted = _Counted(file)
    if kind == "gzip":
        return _bounded(cast(io.RawIOBase, gzip.GzipFile(fileobj=cast(BinaryIO, counted))), counted)
    new_frame: dict[str, Callable[[], Any]] = {
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
        "bz2": bz2.BZ2Decompressor,
    }
    return _bounded(_Frames(counted, new_frame[kind], kind), counted)


def _bounded(stream: io.RawIOBase, counted: "_Counted") -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Bounded(stream, counted), buffer_size=1 << 20))


class _Counted:
    """A compressed file that counts the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data


class _Bounded(io.RawIOBase):
    """A decompressed stream. Reading raises DecompressionError once it has expanded beyond FREE_BYTES and MAX_RATIO."""

    def __init__(self, stream: io.RawIOBase, compressed: _Counted) -> None:
        self._stream, self._compressed, self._count = stream, compressed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        done = self._stream.readinto(buffer) or 0
        self._count += done
        if self._count > FREE_BYTES and self._count > MAX_RATIO * self._compressed.count:
            raise DecompressionError(
                f"refused: {self._compressed.count:,} bytes expand to more than {self._count:,}, above the limit of"
                f" {MAX_RATIO} to 1; if the file is genuine, decompress it first"
            )
        return done


class _Frames(io.RawIOBase):
    """The decompressed content of zstd, xz or bz2 frames. Reading a truncated frame raises EOFError.

    The libraries' own readers treat a truncated frame as the end of the file.
    """

    def __init__(self, file: _Counted, new_frame: Callable[[], Any], kind: str) -> None:
        self._file, self._new_frame, self._kind = file, new_frame, kind
        self._frame = new_frame()
        self._input = b""
        self._output = io.BytesIO()
        self._is_inside_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (data := self._output.read(len(buffer))):
            self._input = self._input or self._file.read(_INPUT_BYTES)
            if not self._input:
                if self._is_inside_frame:
                    raise EOFError(f"the last {self._kind} frame does not end")
                return 0
            self._output = io.BytesIO(self._frame.decompress(self._input))
            self._is_inside_frame = not self._frame.eof
            self._input = b"" if self._is_inside_frame else self._frame.unused_data
            if self._frame.eof:
                self._frame = self._new_frame()
        buffer[: len(data)] = data
        return len(data)
