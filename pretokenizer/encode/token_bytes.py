"""How many bytes of a text each token stands for, so that a token's position follows from the ids alone.

The table is right for byte-level vocabularies and for SentencePiece's, with `▁` and byte tokens. Its user must check
that the lengths of a text's tokens add up to the text (rendered_pass.py).
"""

import json
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.json_tokenizer import JsonTokenizer

UNKNOWN = -(1 << 40)
"""Length of an id that has no token. No sum with it equals the length of a text."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def token_bytes(tokenizer: Tokenizer, marks: Mapping[str, int]) -> NDArray[np.int64]:
    """Return an array with the number of text bytes for which each token id and each mark's id stands.

    `marks` maps the texts of marks to their ids, which are beyond the vocabulary. An id without a token has the length
    UNKNOWN.
    """
    lengths = np.full(max([tokenizer.vocab_size, *(i + 1 for i in marks.values())]), UNKNOWN, dtype=np.int64)
    is_byte_level, added = _byte_level(tokenizer)
    for token_id, token in enumerate(tokenizer.tokens):
        if token is None:
            continue
        if token in added:
            lengths[token_id] = len(token.encode("utf-8"))
        elif is_byte_level:
            lengths[token_id] = len(token)
        else:
            lengths[token_id] = 1 if _BYTE.fullmatch(token) else len(token.replace("▁", " ").encode("utf-8", "replace"))
    for mark, token_id in marks.items():
        lengths[token_id] = len(mark.encode("utf-8"))
    return lengths


def _byte_level(tokenizer: Tokenizer) -> tuple[bool, set[str]]:
    """Return whether each character of a token stands for a byte, and the tokens that are spelled literally."""
    if not isinstance(tokenizer, JsonTokenizer):
        return False, set(tokenizer.special_tokens)
    added = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values()}
    decoder = json.loads(tokenizer.backend.to_str())["decoder"] if tokenizer.backend.decoder else None
    return "ByteLevel" in json.dumps(decoder), added
