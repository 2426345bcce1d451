"""Decompression gives all bytes, and a stream that expands without end is refused."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pytest
import zstandard

from pretokenizer.records import decompress
from pretokenizer.records.decompress import DecompressionError, decompressed

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def read(data: bytes, kind: str) -> bytes:
    return decompressed(io.BytesIO(data), kind).read()


@pytest.mark.parametrize("kind", COMPRESS)
def test_the_bytes_come_out(kind: str) -> None:
    data = b"".join(b"%d " % i for i in range(100_000))
    assert read(COMPRESS[kind](data) * 2, kind) == data * 2


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_bomb_is_refused_by_ratio(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = COMPRESS[kind](bytes(8 << 20))
    assert len(read(bomb, kind)) == 8 << 20  # below FREE_BYTES any ratio is allowed
    monkeypatch.setattr(decompress, "FREE_BYTES", 1 << 20)
    with pytest.raises(DecompressionError, match=r"expand to more than .* above the limit of 250 to 1"):
        read(bomb, kind)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_truncated_stream_is_an_error(kind: str) -> None:
    with pytest.raises(EOFError):
        read(COMPRESS[kind](b"x" * 1000)[:-3], kind)


def test_xz_may_not_ask_for_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "_XZ_MEMORY_BYTES", 1 << 20)
    with pytest.raises(lzma.LZMAError, match="Memory usage limit"):
        read(lzma.compress(b"x" * 1000), "xz")
