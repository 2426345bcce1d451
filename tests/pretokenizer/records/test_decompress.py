"""Decompressed bytes come out whole, and streams that expand without end are refused."""

import gzip
import io

import pytest
import zstandard

from pretokenizer.records import decompress
from pretokenizer.records.decompress import DecompressionError, open_gzip, open_zstd

ZEROS = bytes(8 << 20)


def test_the_bytes_come_out() -> None:
    data = b"".join(b"%d " % i for i in range(100_000))
    assert open_gzip(io.BytesIO(gzip.compress(data) * 2)).read() == data * 2
    assert open_zstd(io.BytesIO(zstandard.compress(data) * 2)).read() == data * 2


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_refused_by_ratio(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(ZEROS) if kind == "gzip" else zstandard.compress(ZEROS)
    stream = open_gzip if kind == "gzip" else open_zstd
    assert len(stream(io.BytesIO(bomb)).read()) == len(ZEROS)  # below FREE_BYTES any ratio is allowed
    monkeypatch.setattr(decompress, "FREE_BYTES", 1 << 20)
    with pytest.raises(DecompressionError, match=r"expand to more than .* above the limit of 250 to 1"):
        stream(io.BytesIO(bomb)).read()


def test_a_truncated_frame_is_no_end() -> None:
    with pytest.raises(EOFError, match="the last zstandard frame does not end"):
        open_zstd(io.BytesIO(zstandard.compress(b"x" * 1000)[:-3])).read()
