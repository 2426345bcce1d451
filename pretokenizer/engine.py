"""Fast exact encoding: gigatoken where it is installed and proved right, else the reference tokenizer.

A fast engine is never trusted. Before it is used it must give the reference's ids on a battery of hard texts; while it
works, a sample of the documents is encoded by both. Where they differ the reference takes over and a warning says so.
"""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretokenizer import sentencepiece_json
from pretokenizer.tokenizer import JsonTokenizer, SentencePieceTokenizer, Tokenizer

REFERENCE_ENV = "PRETOKENIZER_ENGINE"
"""Set to `reference` to do without the fast engine."""

BATTERY = (
    "",
    " ",
    "  ",
    "   \n\n  \t\t \r\n",
    "a  b   c    d     e      f       g        h                 i",
    "Hello, world! It's 12345 o'clock; they'll've said: \"don't\".",
    "def f(x):\n    if x > 0:\n        return x ** 2\n\telse:\n\t\treturn -1\n",
    "▁▁ literal ▁ marks▁",
    "NUL \x00 and controls \x01\x02\x1b\x7f end",
    "emoji 😀👨‍👩‍👧‍👦🏳️‍🌈 e\u0301 é ﬁ ｆｕｌｌ　ｗｉｄｔｈ Å Å",
    "中文和日本語のテキスト 한국어 العربية עברית हिन्दी ไทย",
    "\u200b\u200d\ufeff\u00a0\u2028\u2029\u0085",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀 \U0010fffd",
    "0 00 000 0000 1234567890 3.14159 1,000,000 ١٢٣",
    "http://example.org/a?b=c&d=%20e#f user@example.org C:\\path\\to",
    "!!!??? ... --- === *** ### `code` ```block``` <tag attr='x'>y</tag> {[()]}",
    "<0x0A> <unk> <pad> [INST] <<SYS>> <|im_start> |im_end|>",
    "word\n\nword \n word\n ",
    " leading and trailing ",
    "'s 't 're 've 'm 'll 'd 'S 'T",
)


class FastEngine:
    """gigatoken over the reference's vocabulary, its special tokens included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        import gigatoken

        self.tokenizer = tokenizer
        self.name = f"gigatoken {_version('gigatoken')}"
        self._backend = gigatoken.Tokenizer.from_json(_tokenizer_json(tokenizer))
        self.special_ids = np.array(sorted(_added_ids(tokenizer)), dtype=np.int64)
        """Ids that control tokens in a text would give; a text that gives one where none belongs is encoded again."""

    def encode_joined(self, pieces: Sequence[str]) -> NDArray[np.uint32]:
        """Ids of texts joined, in one call: the same as one by one where each text begins with a control token.

        Raises UnicodeEncodeError for half of a surrogate pair.
        """
        ids: NDArray[np.uint32] = self._backend.encode("".join(pieces).encode("utf-8"))
        return ids

    def encode(self, documents: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """(ids of all documents, offsets (N+1,)); control tokens spelled in a document become their ids."""
        rows = [self._backend.encode(document.encode("utf-8")) for document in documents]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([row.size for row in rows], out=offsets[1:])
        return np.concatenate(rows) if rows else np.empty(0, np.uint32), offsets


def make_engine(tokenizer: Tokenizer, frames: Sequence[tuple[str, str]]) -> tuple[FastEngine | None, str]:
    """The fast engine proved on the battery inside each of the chat format's frames, or None; and a line that says
    which.

    `frames` are the (prefix, suffix) of the chat format's turns.
    """
    if os.environ.get(REFERENCE_ENV) == "reference":
        return None, f"{tokenizer.kind} (the reference; {REFERENCE_ENV}=reference)"
    try:
        engine = FastEngine(tokenizer)
    except ImportError:
        return None, f"{tokenizer.kind} (the reference; pip install 'oasst-megatron[fast]' encodes faster)"
    except Exception as error:  # whatever a foreign engine raises on a vocabulary it does not know
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None, f"{tokenizer.kind} (the reference; gigatoken cannot load this vocabulary: {reason})"
    wrong = first_difference(engine, [prefix + text + suffix for prefix, suffix in frames for text in BATTERY])
    if wrong is not None:
        return None, f"{tokenizer.kind} (the reference; gigatoken gives other ids for {wrong!r})"
    return engine, f"{engine.name}, proved against {tokenizer.kind}"


def first_difference(engine: FastEngine, documents: Sequence[str]) -> str | None:
    """The first document for which the fast engine is wrong, or None.

    A document with a special id the reference does not give is no difference: it is caught and encoded again.
    """
    flat, offsets = engine.encode(documents)
    for index, document in enumerate(documents):
        ids = flat[offsets[index] : offsets[index + 1]].astype(np.int64)
        expected = np.array(engine.tokenizer.encode(document), dtype=np.int64)
        if not np.array_equal(ids, expected):
            specials = np.isin(ids, engine.special_ids).sum()
            if specials == np.isin(expected, engine.special_ids).sum():
                return document
    return None


def _tokenizer_json(tokenizer: Tokenizer) -> str | bytes:
    if isinstance(tokenizer, JsonTokenizer):
        return str(tokenizer.backend.to_str())
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return sentencepiece_json.tokenizer_json(tokenizer)


def _added_ids(tokenizer: Tokenizer) -> set[int]:
    ids = set(tokenizer.control_tokens.values())
    if isinstance(tokenizer, SentencePieceTokenizer):
        own = (tokenizer.token_to_id("<unk>"), tokenizer.eos_token_id, tokenizer.bos_token_id)
        ids |= {i for i in own if i is not None}
    return ids


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
