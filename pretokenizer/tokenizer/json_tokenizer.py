"""Tokenizers from a `tokenizer.json`, through Hugging Face `tokenizers`. (SHARED)"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pretokenizer.tokenizer.base import Tokenizer, TokenizerError, read_json_object

EOS_CANDIDATES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|eot_id|>")
BOS_CANDIDATES = ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>")
PAD_CANDIDATES = ("<|padding|>", "<pad>", "<PAD>", "[PAD]", "<|pad|>")
MAX_IDS = 1 << 24
"""Upper bound on ids, above any real vocabulary. It bounds the id -> token table that a damaged file can ask for."""


class JsonTokenizer(Tokenizer):
    """Any `tokenizer.json`."""

    kind = "tokenizers"
    file_name = "tokenizer.json"

    def __init__(self, path: Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> None:
        """Raises TokenizerError if the file is no tokenizer.json, has an id above MAX_IDS or no end-of-text token."""
        super().__init__(path, extra_special_tokens, new_tokens)
        self.backend = _load_backend(path, extra_special_tokens)
        self._mark = f"\x01{secrets.token_hex(4)}\x02"  # random, so that no text can contain it
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        largest = max(vocabulary.values(), default=0)
        if largest >= MAX_IDS:
            raise TokenizerError(f"{path}: has a token of id {largest:,}; ids go up to {MAX_IDS - 1:,}")
        self.tokens = [None] * (largest + 1)
        for token, token_id in vocabulary.items():
            self.tokens[token_id] = token
        self._choose_own_tokens()
        added = sorted(self.backend.get_added_tokens_decoder().items())
        own = [token.content for _, token in added if token.special and token.content not in extra_special_tokens]
        eos = self.tokens[self.eos_token_id]
        self.special_tokens = {t: vocabulary[t] for t in (*(t for t in own if t != eos), *extra_special_tokens)}

    @property
    def control_tokens(self) -> dict[str, int]:
        """Every added token with the flag `special`, EOS and BOS included."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in sorted(added.items()) if token.special}

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a vocabulary entry or added token, or None."""
        token_id: int | None = self.backend.token_to_id(token)
        return token_id

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; the backend finds special tokens in it."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Apply `encode` to each text, in one call of the backend."""
        return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts with the backend, special tokens read as text."""
        if self._marked_backend is not None:
            marked = [self._mark + text for text in texts]
            return [e.ids[1:] for e in self._marked_backend.encode_batch_fast(marked, add_special_tokens=False)]
        with self._specials_as_text():
            return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_plain_offsets(self, text: str, at_start: bool = False) -> tuple[list[int], list[int]]:
        """Return ids and begins from the backend's own alignment."""
        if self._marked_backend is not None and not at_start:
            encoding = self._marked_backend.encode(self._mark + text, add_special_tokens=False)
            return list(encoding.ids[1:]), [begin - len(self._mark) for begin, _ in encoding.offsets[1:]]
        with self._specials_as_text():
            encoding = self.backend.encode(text, add_special_tokens=False)
        return list(encoding.ids), [begin for begin, _ in encoding.offsets]

    @cached_property
    def _marked_backend(self) -> Any | None:
        """A backend whose only special token is `_mark`, for vocabularies that encode a document's start differently.

        Those use Metaspace with `prepend_scheme: first`. A text after a mark is not the start of the document. Other
        vocabularies get None.
        """
        import tokenizers

        if not re.search(rb'"prepend_scheme"\s*:\s*"first"', self.path.read_bytes()):
            return None
        described = json.loads(self.backend.to_str())
        described["added_tokens"] = [token for token in described["added_tokens"] if not token["special"]]
        backend = tokenizers.Tokenizer.from_str(json.dumps(described))
        backend.add_special_tokens([tokenizers.AddedToken(self._mark, special=True, normalized=False)])
        return backend

    @contextmanager
    def _specials_as_text(self) -> Iterator[None]:
        """Make the backend read special tokens as text. A second backend would cost a second load."""
        self.backend.encode_special_tokens = True
        try:
            yield
        finally:
            self.backend.encode_special_tokens = False

    def decode(self, ids: Iterable[int]) -> str:
        """Return the backend's decoding, special tokens included."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def _choose_own_tokens(self) -> None:
        """Take EOS, BOS and pad from `tokenizer_config.json` beside the file, else from the usual names."""
        config = read_json_object(self.path.with_name("tokenizer_config.json"))
        eos = self._first_known(config.get("eos_token"), EOS_CANDIDATES)
        if eos is None:
            names = ", ".join(EOS_CANDIDATES)
            raise TokenizerError(
                f"{self.path}: no end-of-text token found (looked for {names}); name it in tokenizer_config.json"
            )
        self.eos_token_id = eos
        self.bos_token_id = self._first_known(config.get("bos_token"), BOS_CANDIDATES)
        pad = self._first_known(config.get("pad_token"), PAD_CANDIDATES)
        self.pad_token_id = eos if pad is None else pad

    def _first_known(self, configured: Any, candidates: Sequence[str]) -> int | None:
        name = configured.get("content") if isinstance(configured, dict) else configured
        for token in (name, *candidates):
            if isinstance(token, str) and (token_id := self.token_to_id(token)) is not None:
                return token_id
        return None


def _load_backend(path: Path, extra_special_tokens: Sequence[str]) -> Any:
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise TokenizerError(f"{path}: not a tokenizer.json ({error})") from None
    backend.no_truncation()
    backend.no_padding()
    added = [tokenizers.AddedToken(token, special=True, normalized=False) for token in extra_special_tokens]
    backend.add_special_tokens(added)
    return backend
