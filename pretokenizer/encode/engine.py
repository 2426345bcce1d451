"""The fast engine: the library gigatoken with the reference tokenizer's vocabulary. The passes check its ids.

The engine sees the chat format's control tokens as marks, which are random texts that no message contains. So only the
control tokens that the format wrote are special. `<|im_end|>` or `</s>` in a message stays text, as with the reference
tokenizer. With `encode_special_in_text` it is encoded as the control token.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretokenizer.records.json_text import fast_loads
from pretokenizer.tokenizer import sentencepiece_json
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.json_tokenizer import JsonTokenizer
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer


class EngineError(ValueError):
    """Raised when the engine cannot encode with a vocabulary as the reference tokenizer does."""


class FastEngine:
    """Encodes texts with gigatoken. Marks in a text stand for control tokens."""

    def __init__(self, tokenizer: Tokenizer, framing: Sequence[str], encode_special_in_text: bool = False) -> None:
        """Load the vocabulary, with a mark for each control token in `framing`, which the chat format writes.

        The mark of the i-th token is `marks[token]` in a text and the id `first_mark + i` in the result. Raises
        ImportError without gigatoken, EngineError if a control token absorbs the white space beside it, and gigatoken's
        own errors for a vocabulary that it cannot load.
        """
        import gigatoken

        self.name = f"gigatoken {version('gigatoken')}"
        _refuse_stripping(tokenizer)
        nonce = secrets.token_hex(4)
        self._mark_start = f"\x01{nonce}".encode("ascii")
        self.marks = {token: f"\x01{nonce}{number}\x02" for number, token in enumerate(framing)}
        self.first_mark = tokenizer.vocab_size
        special = {mark: self.first_mark + number for number, mark in enumerate(self.marks.values())}
        if encode_special_in_text:
            special |= tokenizer.control_tokens
        self._backend = gigatoken.Tokenizer.from_json(_described(tokenizer, special))

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the token ids of a text. The text from one mark to the next gets the same ids as on its own.

        Raises UnicodeEncodeError for a lone surrogate.
        """
        return self.encode_bytes(text.encode("utf-8"))

    def encode_bytes(self, data: bytes) -> NDArray[np.uint32]:
        """Return the token ids of a text in UTF-8."""
        ids: NDArray[np.uint32] = self._backend.encode(data)
        return ids

    def find_marks(self, data: bytes) -> NDArray[np.int64]:
        """Return the byte position of every mark in a text in UTF-8."""
        found = np.frombuffer(data, dtype=np.uint8)
        at = np.flatnonzero(found == self._mark_start[0])
        for offset, byte in enumerate(self._mark_start):
            at = at[at + offset < found.size]
            at = at[found[at + offset] == byte]
        return at


def _refuse_stripping(tokenizer: Tokenizer) -> None:
    """Raise EngineError if a control token of the tokenizer takes the white space beside it."""
    if isinstance(tokenizer, JsonTokenizer):
        added = tokenizer.backend.get_added_tokens_decoder().values()
        found = [t.content for t in added if t.special and (t.lstrip or t.rstrip or t.single_word)]
        if found:
            raise EngineError(
                f"control token {found[0]} takes the white space beside it (lstrip, rstrip or single_word)"
            )


def _described(tokenizer: Tokenizer, special: Mapping[str, int]) -> bytes:
    """Return the vocabulary as the bytes of a `tokenizer.json` in which only `special` (token -> id) are special."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        described = sentencepiece_json.describe(tokenizer, exact=True)
        described["added_tokens"] = [sentencepiece_json.added_token(token, i) for token, i in special.items()]
        return _dump(described)
    assert isinstance(tokenizer, JsonTokenizer)
    described = fast_loads(tokenizer.path.read_bytes())
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    own = {token.content: (i, token) for i, token in tokenizer.backend.get_added_tokens_decoder().items()}
    kept = {content: (i, token) for content, (i, token) in own.items() if not token.special or content in special}
    added = [{"id": i, "content": content, **{f: getattr(t, f) for f in flags}} for content, (i, t) in kept.items()]
    marks = {content: i for content, i in special.items() if content not in own}
    described |= {"truncation": None, "padding": None}
    described["added_tokens"] = [*added, *(sentencepiece_json.added_token(mark, i) for mark, i in marks.items())]
    return _dump(described)


def _dump(described: dict[str, Any]) -> bytes:
    """Return a value as JSON bytes, through orjson where it is installed."""
    try:
        import orjson
    except ImportError:
        return json.dumps(described, ensure_ascii=False).encode("utf-8")
    return orjson.dumps(described)
