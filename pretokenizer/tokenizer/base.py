"""The interface of every tokenizer: a vocabulary, special tokens, encoding and decoding. (SHARED)

The libraries `sentencepiece` and `tokenizers` compute the ids. These ids are the reference that the fast engine
(encode/fast.py) is compared with.
"""

import hashlib
import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from pretokenizer.files.publish import write_json_atomic

SPEC_NAME = "tokenizer_spec.json"


class TokenizerError(ValueError):
    """A tokenizer cannot be loaded or does not fit its data; the message names the file."""


class Alignment(NamedTuple):
    """The tokens of a text: their ids, and the characters of the text that each covers."""

    ids: list[int]
    begins: list[int]
    """Index of each token's first character."""
    ends: list[int]
    """Index after each token's last character. A token that covers no character (SentencePiece's dummy prefix) ends
    where it begins."""


class Tokenizer(ABC):
    """A vocabulary with special tokens that encodes and decodes text. `load_tokenizer` creates it."""

    kind: ClassVar[str]
    """Name of this kind of tokenizer in `tokenizer_spec.json`."""
    file_name: ClassVar[str]
    """Name of the vocabulary file in a tokenizer folder."""

    def __init__(self, path: Path, extra_special_tokens: Sequence[str], new_tokens: bool) -> None:
        self.path = path
        self.extra_special_tokens = tuple(extra_special_tokens)
        self.new_tokens = new_tokens
        self.special_tokens: dict[str, int] = {}
        """{token: id} of the special tokens, in Open-Assistant's order; the contents of `special_tokens.json`."""
        self.pad_token_id: int
        self.eos_token_id: int
        """The model's own end-of-text token, not the chat format's end-of-turn token."""
        self.bos_token_id: int | None
        self.tokens: list[str | None] = []
        """The token of each id, at index id; None marks an unused id."""

    @property
    def control_tokens(self) -> dict[str, int]:
        """{token: id} of the control tokens, such as <|im_end|>: the tokens that `encode` recognises in a text."""
        return self.special_tokens

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Regular expression that matches any control token in a text."""
        return re.compile("|".join(map(re.escape, self.control_tokens)) or r"(?!)")

    @cached_property
    def typed_pattern(self) -> re.Pattern[str]:
        """Regular expression that finds control tokens spelled in a text, longer ones first.

        A message that spells one must not produce it. SentencePieceTokenizer adds the control tokens among the model's
        user-defined pieces.
        """
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def control_matches(self, text: str, plain: Sequence[tuple[int, int]]) -> tuple[list[re.Match[str]], bool]:
        """Find the control tokens in a text in which the spans `plain` are plain text.

        Return (matches outside of the spans, whether any control token is spelled inside a span or across its edge).
        """
        every = list(self.typed_pattern.finditer(text))
        if not plain or not every:
            return every, False
        own: list[re.Match[str]] = []
        at = 0
        for begin, end in [*plain, (len(text), len(text))]:
            own += self.typed_pattern.finditer(text, at, begin)
            at = end
        return own, [match.span() for match in own] != [match.span() for match in every]

    @property
    def vocab_size(self) -> int:
        """Number of ids in the vocabulary, with added tokens and without padding."""
        return len(self.tokens)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the list of all tokens as JSON, the same for a tokenizer.model and its tokenizer.json."""
        table = json.dumps(self.tokens, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(table.encode("ascii")).hexdigest()

    @abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """Return the id of a vocabulary entry or special token, or None when the vocabulary lacks it."""

    def id_to_token(self, token_id: int) -> str | None:
        """Return the token of an id, or None for an unused id.

        Raises TokenizerError for an id outside the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"{self.path}: token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self.tokens[token_id]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text. A control token spelled in the text becomes its id. No BOS is added."""

    @abstractmethod
    def align(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> Alignment:
        """Return the token ids of a text and the characters that each token covers.

        `plain` holds spans (begin, end) of characters, in order. The ids are those of `encode`, except that a control
        token spelled inside a span or across its edge is encoded as ordinary text.
        """

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of a text, with every control token in it encoded as ordinary text."""
        return self.align(text, [(0, len(text))]).ids

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, with special tokens spelled out."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, as `encode` gives them."""
        return [self.encode(text) for text in texts]

    def save(self, folder: str | Path, chat_format: str | None = None, adds_bos: bool | None = None) -> None:
        """Write the vocabulary file and `tokenizer_spec.json` into `folder`, for `load_tokenizer_folder` to read.

        `chat_format` is the name of the chat format, or None without one. `adds_bos` says whether the documents in
        shards begin with a BOS that the chat format does not write. It is None for a tokenizer that belongs to no
        shards.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / self.file_name
        if not (target.exists() and target.samefile(self.path)):
            shutil.copyfile(self.path, target)
        spec = {
            "kind": self.kind,
            "extra_special_tokens": list(self.extra_special_tokens),
            "new_tokens": self.new_tokens,
            "chat_format": chat_format,
            "adds_bos": adds_bos,
            "eos_token_id": self.eos_token_id,
            "bos_token_id": self.bos_token_id,
            "pad_token_id": self.pad_token_id,
            "special_tokens": self.special_tokens,
            "fingerprint": self.fingerprint,
        }
        write_json_atomic(folder / SPEC_NAME, spec, sync=False)
