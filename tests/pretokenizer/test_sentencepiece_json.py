"""sentencepiece_json.py"""

import json

import pytest

from pretokenizer.sentencepiece_json import UnsupportedModelError, has_dummy_prefix, ranked_merges, tokenizer_json
from pretokenizer.tokenizer import SentencePieceTokenizer
from tests.pretokenizer.conftest import SAMPLE_MODEL


def test_merges_by_score_then_longer_left_part() -> None:
    vocabulary = {"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4, "▁": 5, "▁▁": 6, "▁▁▁": 7}
    scores = [0.0, 0, -1, -2, -3, 0, -1e9, -1e9]
    assert ranked_merges(vocabulary, scores) == [
        ("a", "b"),
        ("b", "a"),
        ("ab", "a"),
        ("a", "ba"),
        ("▁▁", "▁"),
        ("▁", "▁▁"),
        ("▁", "▁"),
    ]


def test_the_whole_description(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    described = json.loads(tokenizer_json(sentencepiece_tokenizer))
    assert [(t["id"], t["content"]) for t in described["added_tokens"]] == [
        (1, "<s>"),
        (2, "</s>"),
        (3000, "<CLS>"),
        (3001, "<SEP>"),
        (3002, "<EOD>"),
        (3003, "<MASK>"),
        (3004, "<PAD>"),
        (3005, "<|im_start|>"),
        (3006, "<|im_end|>"),
    ]
    assert len(described["model"]["vocab"]) == 3000 and described["model"]["byte_fallback"]
    assert [n["type"] for n in described["normalizer"]["normalizers"]] == ["Prepend", "Replace"]


def test_the_merges_are_those_of_another_converter(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    converter = pytest.importorskip("gigatoken._load.sentencepiece")
    theirs = json.loads(converter.sentencepiece_to_tokenizer_json(SAMPLE_MODEL.read_bytes()))
    ours = json.loads(tokenizer_json(sentencepiece_tokenizer))
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    assert ours["model"]["merges"] == theirs["model"]["merges"]


def test_models_that_cannot_be_expressed() -> None:
    data = SAMPLE_MODEL.read_bytes()
    assert has_dummy_prefix(data) is True
    unigram = bytes([0x12, 2, 3 << 3, 1])  # trainer specification: model_type 1
    with pytest.raises(UnsupportedModelError, match="is not of type BPE"):
        has_dummy_prefix(data + unigram)
    with pytest.raises(UnsupportedModelError, match="normalises characters"):
        has_dummy_prefix(data + bytes([0x1A, 3, 2 << 3 | 2, 1, 65]))
    with pytest.raises(UnsupportedModelError, match="not a SentencePiece protocol buffer"):
        has_dummy_prefix(b"\x08\x01")
