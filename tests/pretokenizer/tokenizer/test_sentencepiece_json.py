"""sentencepiece_json.py"""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from pretokenizer.tokenizer import sentencepiece_json
from pretokenizer.tokenizer.sentencepiece_json import (
    UnsupportedModelError,
    _Model,
    _scores_and_types,
    has_dummy_prefix,
    ranked_merges,
    tokenizer_json,
)
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.pretokenizer.conftest import SAMPLE_MODEL


def test_merges_by_score_then_longer_left_part() -> None:
    pieces = ["ab", "ba", "aba", "a", "b", "▁", "▁▁", "▁▁▁"]
    scores = np.array([-1, -2, -3, -9, -9, -9, -1e9, -1e9], dtype=np.float32)
    assert ranked_merges(pieces, scores) == [
        ("a", "b"),
        ("b", "a"),
        ("ab", "a"),
        ("a", "ba"),
        ("▁▁", "▁"),
        ("▁", "▁▁"),
        ("▁", "▁"),
    ]


@pytest.mark.parametrize("table_bits", [20, 6])
def test_merges_are_all_the_cuts_there_are(
    table_bits: int, sentencepiece_tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentencepiece_json, "_TABLE_BITS", table_bits)
    monkeypatch.setattr(sentencepiece_json, "_TABLE_SHIFT", np.uint64(64 - table_bits))
    pieces = [*sentencepiece_tokenizer.tokens[259:3000], "𝔘𝔫", "𝔘", "𝔫"]
    known = set(pieces)
    expected = [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(len(piece) - 1, 0, -1)
        if piece[:i] in known and piece[i:] in known
    ]
    assert ranked_merges(pieces, -np.arange(len(pieces), dtype=np.float32)) == expected
    assert ("𝔘", "𝔫") in expected and len(expected) == 2759


def test_the_whole_description(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    described = json.loads(tokenizer_json(sentencepiece_tokenizer, {"<|mark|>": 3007}))
    assert [(t["id"], t["content"], t["special"]) for t in described["added_tokens"]] == [(3007, "<|mark|>", True)]
    assert len(described["model"]["vocab"]) == 3000 and described["model"]["byte_fallback"]
    assert [n["type"] for n in described["normalizer"]["normalizers"]] == ["Prepend", "Replace"]


def test_the_merges_are_those_of_another_converter(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    converter = pytest.importorskip("gigatoken._load.sentencepiece")
    theirs = json.loads(converter.sentencepiece_to_tokenizer_json(SAMPLE_MODEL.read_bytes()))
    ours = json.loads(tokenizer_json(sentencepiece_tokenizer, {}))
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    special = {"<s>", "</s>", "<unk>"}  # what a control token would be merged from is left out
    assert ours["model"]["merges"] == [m for m in theirs["model"]["merges"] if "".join(m) not in special]


def test_models_that_cannot_be_expressed(tmp_path: Path) -> None:
    data = SAMPLE_MODEL.read_bytes()
    assert has_dummy_prefix(data) is True
    unigram = bytes([0x12, 2, 3 << 3, 1])  # trainer specification: model_type 1
    with pytest.raises(UnsupportedModelError, match="is not of type BPE"):
        has_dummy_prefix(data + unigram)
    with pytest.raises(UnsupportedModelError, match="normalises characters"):
        has_dummy_prefix(data + bytes([0x1A, 3, 2 << 3 | 2, 1, 65]))
    with pytest.raises(UnsupportedModelError, match="not a SentencePiece protocol buffer"):
        has_dummy_prefix(b"\x08\x01")
    with pytest.raises(UnsupportedModelError, match="user-defined or unused pieces"):
        tokenizer_json(_with_piece(b"\x0a\x03new\x15\x00\x00\x00\x00\x18\x04", tmp_path), {})


def test_pieces_written_in_another_way(tmp_path: Path) -> None:
    """A long piece, and one with its fields in another order, after the usual ones."""
    score = struct.pack("<f", -5000.5)
    long = b"\x0a\x81\x01" + b"a" * 129 + b"\x15" + score
    turned = b"\x15" + score + b"\x0a\x02ab"
    plain = _with_piece(long, tmp_path)
    described = json.loads(tokenizer_json(plain, {}))
    assert described["model"]["vocab"]["a" * 129] == 3000
    scores, types = _scores_and_types(turned + long, _Model({}, {}, [0, len(turned)], [len(turned), len(long)]))
    assert scores.tolist() == [-5000.5, -5000.5] and types.tolist() == [1, 1]


def _with_piece(message: bytes, folder: Path) -> SentencePieceTokenizer:
    """The sample model and one piece more."""
    size = bytes([len(message)]) if len(message) < 128 else bytes([len(message) & 0x7F | 0x80, len(message) >> 7])
    path = folder / "tokenizer.model"
    path.write_bytes(SAMPLE_MODEL.read_bytes() + b"\x0a" + size + message)
    return SentencePieceTokenizer(path)
