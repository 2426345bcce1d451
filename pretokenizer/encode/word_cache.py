"""Encoding with a cache of words, where no fast engine is installed: exact ids at about twice the reference's speed.

A text may be cut where no token can reach across; the parts are encoded alone, and most of them were seen before.

* SentencePiece BPE: a merge makes a piece of the vocabulary, so where no piece holds two characters side by side, no
merge
  crosses between them. The cuts used are around line feeds and in front of `▁`; the vocabulary is checked for both.
* Byte-level BPE with GPT-2's pattern: its words, in texts of ASCII (others go to the reference whole).

As with the fast engine, the ids are proved: on the battery at the start, on a sample of the data all the time.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pretokenizer.encode.batch import ranges
from pretokenizer.encode.hard_texts import BATTERY
from pretokenizer.tokenizer.sentencepiece_json import UnsupportedModelError, has_dummy_prefix
from pretokenizer.tokenizer.tokenizer import JsonTokenizer, SentencePieceTokenizer, Tokenizer

MAX_WORDS = 1 << 20
"""The cache starts over when it holds so many."""
_GPT2_ASCII = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
_SENTENCEPIECE_WORDS = re.compile(r"\n|▁*[^▁\n]+|▁+")


Flat = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""(ids of all texts joined, number of ids of each)."""


class WordCache(Protocol):
    """Encodes plain texts, exactly as Tokenizer.encode_plain_batch does."""

    def encode_plain_flat(self, texts: Sequence[str]) -> Flat:
        """Ids of texts in which nothing is special."""


def make_word_cache(tokenizer: Tokenizer) -> WordCache | None:
    """A cache that is right on the battery, or None for a vocabulary that cannot be cut."""
    cache: WordCache
    try:
        if isinstance(tokenizer, SentencePieceTokenizer):
            cache = SentencePieceWords(tokenizer)
        elif isinstance(tokenizer, JsonTokenizer):
            cache = ByteLevelWords(tokenizer)
        else:
            return None
    except UnsupportedModelError:
        return None
    texts = [*BATTERY, *(f"user\n{text}" for text in BATTERY)]
    found, expected = cache.encode_plain_flat(texts), flatten(tokenizer.encode_plain_batch(texts))
    is_right = np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
    return cache if is_right else None


def flatten(rows: list[list[int]]) -> Flat:
    """Lists of ids as flat arrays."""
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    return np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=int(sizes.sum())), sizes


class SentencePieceWords:
    """Words of a SentencePiece BPE model. Raises UnsupportedModelError when its pieces reach across the cuts."""

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        if not has_dummy_prefix(tokenizer.path.read_bytes()):
            raise UnsupportedModelError("the model has no dummy prefix")
        crossing = re.compile(r"[^▁]▁|\n.|.\n", re.DOTALL)
        pieces = (piece for piece in tokenizer.tokens[: tokenizer.num_pieces] if piece)
        if any(crossing.search(piece) for piece in pieces):
            raise UnsupportedModelError("pieces reach across words")
        self._encode = tokenizer.processor.encode
        self._line_feed = list(self._encode("\n"))[1:]
        self._forget()

    def encode_plain_flat(self, texts: Sequence[str]) -> Flat:
        """Word by word; those not seen before are encoded together."""
        words = [_SENTENCEPIECE_WORDS.findall("▁" + text.replace(" ", "▁")) if text else [] for text in texts]
        if len(self._numbers) > MAX_WORDS:
            self._forget()
        self._learn(list(set().union(*words).difference(self._numbers)))
        counts = np.array([len(own) for own in words], dtype=np.int64)
        all_words = map(self._numbers.__getitem__, chain.from_iterable(words))
        numbers = np.fromiter(all_words, dtype=np.int64, count=int(counts.sum()))
        sizes = self._sizes[numbers]
        before = np.append(0, np.cumsum(sizes))
        ends = np.cumsum(counts)
        return self._ids[ranges(self._starts[numbers], sizes)], before[ends] - before[ends - counts]

    def _forget(self) -> None:
        """Start over with the line feed alone, word number 0."""
        self._numbers = {"\n": 0}
        self._ids = np.array(self._line_feed, dtype=np.uint32)
        self._starts, self._sizes = np.array([0]), np.array([len(self._line_feed)])

    def _learn(self, words: list[str]) -> None:
        """Encode words alone; a line feed beside one keeps the model from treating it as a text of its own."""
        if not words:
            return
        begins = [word[0] == "▁" for word in words]
        texts = [word[1:] + "\n" if begin else "\n" + word for word, begin in zip(words, begins, strict=True)]
        size = len(self._line_feed)
        encoded = zip(begins, self._encode(texts, num_threads=1), strict=True)
        ids, sizes = flatten([row[:-size] if begin else row[1 + size :] for begin, row in encoded])
        self._numbers.update(zip(words, range(len(self._numbers), len(self._numbers) + len(words)), strict=True))
        self._starts = np.append(self._starts, self._ids.size + np.cumsum(sizes) - sizes)
        self._sizes, self._ids = np.append(self._sizes, sizes), np.append(self._ids, ids)


class ByteLevelWords:
    """Words of GPT-2's pattern. Raises UnsupportedModelError for a `tokenizer.json` that cuts in another way."""

    def __init__(self, tokenizer: JsonTokenizer) -> None:
        described = json.loads(tokenizer.backend.to_str())
        cutter, normalizer = described["pre_tokenizer"] or {}, described["normalizer"] or {"type": "NFC"}
        is_gpt2 = cutter.get("type") == "ByteLevel" and not cutter["add_prefix_space"] and cutter.get("use_regex", True)
        added = [token for token in described["added_tokens"] if not token["special"]]
        is_plain = not any(token[flag] for token in added for flag in ("lstrip", "rstrip", "single_word"))
        if described["model"]["type"] != "BPE" or not is_gpt2 or normalizer["type"] != "NFC" or not is_plain:
            raise UnsupportedModelError("the tokenizer cuts its text in another way")
        contents = sorted((token["content"] for token in added), key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, contents)) or r"(?!)")
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def encode_plain_flat(self, texts: Sequence[str]) -> Flat:
        """ASCII texts word by word, the others by the reference."""
        others = [index for index, text in enumerate(texts) if not text.isascii()]
        exact = dict(zip(others, self._tokenizer.encode_plain_batch([texts[i] for i in others]), strict=True))
        return flatten([exact[i] if i in exact else self._encode_text(text) for i, text in enumerate(texts)])

    def _encode_text(self, text: str) -> list[int]:
        if len(self._known) > MAX_WORDS:
            self._known = {}
        ids: list[int] = []
        position = 0
        for match in self._added.finditer(text):
            self._add_words(text[position : match.start()], ids)
            ids += self._known.get(match.group()) or self._encode_word(match.group())
            position = match.end()
        self._add_words(text[position:], ids)
        return ids

    def _add_words(self, text: str, ids: list[int]) -> None:
        known = self._known.get
        for word in _GPT2_ASCII.findall(text):
            ids += known(word) or self._encode_word(word)

    def _encode_word(self, word: str) -> list[int]:
        ids = self._known[word] = self._tokenizer.encode_plain_batch([word])[0]
        return ids
