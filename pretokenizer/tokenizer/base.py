"""The interface of every tokenizer: a vocabulary, special tokens, encoding and decoding. (SHARED)

Ids come from the libraries `sentencepiece` and `tokenizers` themselves. They are the reference that proves the fast
engine (encode/fast.py).
"""

import hashlib
import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pretokenizer.files.publish import read_json, write_json_atomic

SPEC_NAME = "tokenizer_spec.json"


class TokenizerError(ValueError):
    """A tokenizer cannot be loaded or does not fit its data; the message names the file."""


class Alignment(NamedTuple):
    """The tokens of a text."""

    ids: list[int]
    begins: list[int]
    """Index of each token's first character."""
    ends: list[int]
    """Index after each token's last character; equal to `begins` for SentencePiece's dummy prefix."""


class Tokenizer(ABC):
    """A vocabulary with special tokens. `load_tokenizer` creates it."""

    kind: ClassVar[str]
    """Name of the implementation, written to `tokenizer_spec.json`."""
    file_name: ClassVar[str]
    """Name of the vocabulary file in a tokenizer folder."""

    def __init__(self, path: Path, extra_special_tokens: Sequence[str], new_tokens: bool) -> None:
        self.path = path
        self.extra_special_tokens = tuple(extra_special_tokens)
        self.new_tokens = new_tokens
        self.special_tokens: dict[str, int] = {}
        """Token -> id, in the order of the original pretokenizer: the contents of `special_tokens.json`."""
        self.pad_token_id: int
        self.eos_token_id: int
        """The model's own end-of-text token, not the chat format's end-of-turn token."""
        self.bos_token_id: int | None
        self.tokens: list[str | None] = []
        """id -> token; None marks an unused id."""

    @property
    def control_tokens(self) -> dict[str, int]:
        """Token -> id of every token that `encode` recognises in a text."""
        return self.special_tokens

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """A pattern that matches any control token in a text."""
        return re.compile("|".join(map(re.escape, self.control_tokens)) or r"(?!)")

    @cached_property
    def typed_pattern(self) -> re.Pattern[str]:
        """A pattern that matches any token that a message must not produce, the longest first."""
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def control_matches(self, text: str, plain: Sequence[tuple[int, int]]) -> tuple[list[re.Match[str]], bool]:
        """Return (the control tokens outside of `plain`, whether others are spelled inside or across a span)."""
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
        """Number of ids without padding, added tokens included."""
        return len(self.tokens)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the id -> token table as JSON. Both file kinds of one vocabulary have the same fingerprint."""
        table = json.dumps(self.tokens, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(table.encode("ascii")).hexdigest()

    @abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """Return the id of a vocabulary entry or special token, or None. `token` is not encoded as text."""

    def id_to_token(self, token_id: int) -> str | None:
        """Return the vocabulary entry of an id. Raises TokenizerError outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"{self.path}: token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self.tokens[token_id]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. A special token spelled in the text becomes its id; no BOS is added."""

    @abstractmethod
    def align(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> Alignment:
        """Return the ids of a text and the characters that each token covers.

        The ids are those of `encode`, except that a control token spelled inside or across a span of `plain` stays
        text. The spans are (begin, end) in characters, in order.
        """

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of a text in which every control token stays text."""
        return self.align(text, [(0, len(text))]).ids

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special tokens included."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Apply `encode` to each text."""
        return [self.encode(text) for text in texts]

    def save(self, folder: str | Path, chat_format: str | None = None, adds_bos: bool | None = None) -> None:
        """Write the vocabulary file and `tokenizer_spec.json`; `load_tokenizer_folder` reads them.

        `adds_bos` says whether documents in shards have a BOS that the chat format does not write; None means that the
        tokenizer belongs to no shards.
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


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or {} if the file does not exist. Raises TokenizerError for anything else."""
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot read: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object")
    return value
