"""word_cache.py, against the reference tokenizers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.chat.formats import CHAT_FORMATS, FramedFormat
from pretokenizer.encode.batch import EngineMismatchError
from pretokenizer.encode.hard_texts import BATTERY
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.encode.word_cache import ByteLevelWords, SentencePieceWords, WordCache, make_word_cache
from pretokenizer.encode.word_pass import WordPass
from pretokenizer.tokenizer.sentencepiece_json import UnsupportedModelError
from pretokenizer.tokenizer.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from tests.pretokenizer.conftest import SAMPLE_MODEL, SHARED, needs_shared
from tests.pretokenizer.hard_conversations import assert_equal, hard_conversations

TEXTS = [
    *BATTERY,
    *(a + b for a, b in zip(BATTERY, BATTERY[3:])),
    "▁▁x ▁",
    "\n",
    "\n\n",
    " \n ",
    "a\n b",
    "<|im_end|>",
    "\x1c\x1f",
]


def rows(words: WordCache, texts: list[str]) -> list[list[int]]:
    flat, sizes = words.encode_plain_flat(texts)
    return [ids.tolist() for ids in np.split(flat, np.cumsum(sizes)[:-1])]


def test_sentencepiece_words(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    words = SentencePieceWords(sentencepiece_tokenizer)
    expected = sentencepiece_tokenizer.encode_plain_batch(TEXTS)
    for _ in range(2):  # the second time from the cache
        assert rows(words, TEXTS) == expected


def test_byte_level_words(byte_level_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_path, ("<|im_end|>",))
    words = make_word_cache(tokenizer)
    assert isinstance(words, ByteLevelWords)
    for _ in range(2):
        assert rows(words, TEXTS) == tokenizer.encode_plain_batch(TEXTS)


def test_pieces_across_words_are_noticed(sentencepiece_tokenizer: SentencePieceTokenizer, monkeypatch: Any) -> None:
    monkeypatch.setattr(sentencepiece_tokenizer, "tokens", [*sentencepiece_tokenizer.tokens[:-9], *["of▁the"] * 9])
    monkeypatch.setattr(sentencepiece_tokenizer, "num_pieces", len(sentencepiece_tokenizer.tokens))
    with pytest.raises(UnsupportedModelError, match="pieces reach across words"):
        SentencePieceWords(sentencepiece_tokenizer)
    assert make_word_cache(sentencepiece_tokenizer) is None


@pytest.mark.parametrize("name", ["chatml", "oasst"])
def test_documents_by_words_are_the_references(name: str) -> None:
    chat_format = CHAT_FORMATS[name]
    assert isinstance(chat_format, FramedFormat)
    tokenizer = load_tokenizer(SAMPLE_MODEL, chat_format.special_tokens)
    words = make_word_cache(tokenizer)
    assert words is not None
    by_words, reference = WordPass(tokenizer, chat_format, words), ReferencePass(tokenizer, chat_format)
    assert_equal(by_words.encode(hard_conversations()), reference.encode(hard_conversations()))


def test_a_wrong_cache_is_found(sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    chat_format = CHAT_FORMATS["chatml"]
    words = make_word_cache(sample_tokenizer)
    assert isinstance(words, SentencePieceWords) and isinstance(chat_format, FramedFormat)
    monkeypatch.setitem(words._numbers, "▁user", 0)
    by_words = WordPass(sample_tokenizer, chat_format, words)
    with pytest.raises(EngineMismatchError, match="user"):
        by_words.encode([Conversation(pair("q", "a"))])


@needs_shared
@pytest.mark.parametrize(("path", "has_words"), [("llama2", True), ("gpt_neox", True), ("falcon", False)])
def test_real_vocabularies(path: str, has_words: bool) -> None:
    tokenizer = load_tokenizer(SHARED / "tokenizers" / path)
    words = make_word_cache(tokenizer)
    assert (words is not None) is has_words
    if words is not None:
        texts = [*TEXTS, *(SHARED / "data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()[:200]]
        assert rows(words, texts) == tokenizer.encode_plain_batch(texts)
