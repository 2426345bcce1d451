"""The fast engine: gigatoken over the reference's vocabulary. It is never trusted; framed_pass.py proves it.

Control tokens of the chat format's frames are shown to it as marks, which no message can spell: random, and made anew
for each engine. So what is special in a text is only what the chat format put there, and `<|im_end|>` or `</s>` in a
message is text, as it is for the reference; or, where that is wanted, the control token.
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


class FastEngine:
    """Encodes text in which marks stand for control tokens."""

    def __init__(self, tokenizer: Tokenizer, framing: Sequence[str], encode_special_in_text: bool = False) -> None:
        """`framing` are the control tokens of frames; the i-th becomes `marks[it]` in a text, `first_mark + i` in ids.

        Raises ImportError without gigatoken, and what it raises for a vocabulary it does not know.
        """
        import gigatoken

        self.name = f"gigatoken {version('gigatoken')}"
        nonce = secrets.token_hex(4)
        self.marks = {token: f"\x01{nonce}{number}\x02" for number, token in enumerate(framing)}
        self.first_mark = tokenizer.vocab_size
        special = {mark: self.first_mark + number for number, mark in enumerate(self.marks.values())}
        if encode_special_in_text:
            special |= tokenizer.control_tokens
        self._backend = gigatoken.Tokenizer.from_json(_described(tokenizer, special))

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of a text: the same as of its parts one by one, where each part begins with a mark.

        Raises UnicodeEncodeError for half of a surrogate pair.
        """
        ids: NDArray[np.uint32] = self._backend.encode(text.encode("utf-8"))
        return ids


def _described(tokenizer: Tokenizer, special: Mapping[str, int]) -> bytes:
    """The vocabulary as `tokenizer.json` contents in which only `special` is special."""
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
    """JSON, through orjson where it is installed."""
    try:
        import orjson
    except ImportError:
        return json.dumps(described, ensure_ascii=False).encode("utf-8")
    return orjson.dumps(described)
