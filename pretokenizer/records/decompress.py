"""Decompressed streams that are bounded: a small file that expands without end is refused before it fills the memory.

stream = open_gzip(file)        # or open_zstd; both raise DecompressionError, which names the bound
"""

import gzip
import io
from typing import Any, BinaryIO, cast

import zstandard

MAX_RATIO = 250
"""Decompressed bytes for each compressed one. Text has 3 to 20; a bomb of zeros has 1,000 in gzip, 30,000 in zstd."""
FREE_BYTES = 256 << 20
"""Decompressed bytes that may come whatever the ratio."""
_ZSTD_INPUT_BYTES = 1 << 13
"""Given to zstd at once; all that comes of it is held, which is 256 MiB at worst."""


class DecompressionError(ValueError):
    """A stream that expands beyond all measure."""


def open_gzip(file: BinaryIO) -> BinaryIO:
    """Decompressed bytes of a gzip file, all its members."""
    counted = _Counted(file)
    return _bounded(cast(io.RawIOBase, gzip.GzipFile(fileobj=cast(BinaryIO, counted))), counted)


def open_zstd(file: BinaryIO) -> BinaryIO:
    """Decompressed bytes of a zstandard file, all its frames. A truncated frame raises EOFError."""
    counted = _Counted(file)
    return _bounded(_ZstdFrames(counted), counted)


def _bounded(stream: io.RawIOBase, counted: "_Counted") -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Bounded(stream, counted), buffer_size=1 << 20))


class _Counted:
    """A file whose bytes are counted as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data


class _Bounded(io.RawIOBase):
    """A decompressed stream that refuses to grow beyond MAX_RATIO."""

    def __init__(self, stream: io.RawIOBase, compressed: _Counted) -> None:
        self._stream, self._compressed, self._count = stream, compressed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        done = self._stream.readinto(buffer) or 0
        self._count += done
        if self._count > FREE_BYTES and self._count > MAX_RATIO * self._compressed.count:
            raise DecompressionError(
                f"refused: {self._compressed.count:,} bytes expand to more than {self._count:,}, above the bound of"
                f" {MAX_RATIO} to 1; decompress it yourself if it is meant so"
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
