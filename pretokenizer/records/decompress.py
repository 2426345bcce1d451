"""Decompress gzip and zstandard streams, and refuse a small file that expands without end before it fills the memory.

stream = open_gzip(file)        # or open_zstd
"""

import gzip
import io
from typing import Any, BinaryIO, cast

import zstandard

MAX_RATIO = 250
"""Limit of decompressed bytes for each compressed byte. Text has 3 to 20; zeros have 1,000 in gzip, 30,000 in zstd."""
FREE_BYTES = 256 << 20
"""Number of decompressed bytes below which the ratio is not checked."""
_ZSTD_INPUT_BYTES = 1 << 13
"""Compressed bytes that zstd gets at once. Its output stays in memory and has at most 256 MiB."""


class DecompressionError(ValueError):
    """A stream expands beyond MAX_RATIO."""


def open_gzip(file: BinaryIO) -> BinaryIO:
    """Return the decompressed stream of a gzip file with one or more members. Reading raises DecompressionError."""
    counted = _Counted(file)
    return _bounded(cast(io.RawIOBase, gzip.GzipFile(fileobj=cast(BinaryIO, counted))), counted)


def open_zstd(file: BinaryIO) -> BinaryIO:
    """Return the decompressed stream of a zstandard file with one or more frames.

    Reading raises DecompressionError, and EOFError for a truncated frame.
    """
    counted = _Counted(file)
    return _bounded(_ZstdFrames(counted), counted)


def _bounded(stream: io.RawIOBase, counted: "_Counted") -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Bounded(stream, counted), buffer_size=1 << 20))


class _Counted:
    """A file that counts the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data


class _Bounded(io.RawIOBase):
    """A decompressed stream that raises DecompressionError beyond MAX_RATIO."""

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


class _ZstdFrames(io.RawIOBase):
    """Decompressed zstandard frames. The library's own reader takes a truncated frame for the end; this one raises."""

    def __init__(self, file: _Counted) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._input = b""
        self._output = io.BytesIO()
        self._is_inside_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (data := self._output.read(len(buffer))):
            self._input = self._input or self._file.read(_ZSTD_INPUT_BYTES)
            if not self._input:
                if self._is_inside_frame:
                    raise EOFError("the last zstandard frame does not end")
                return 0
            self._output = io.BytesIO(self._frame.decompress(self._input))
            self._is_inside_frame = not self._frame.eof
            self._input = b"" if self._is_inside_frame else self._frame.unused_data
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        buffer[: len(data)] = data
        return len(data)
