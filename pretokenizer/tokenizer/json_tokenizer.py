"""Tokenizers from a `tokenizer.json` file, through the library `tokenizers` of Hugging Face. (SHARED)"""

import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pretokenizer.files.publish import read_json_object
from pretokenizer.tokenizer.base import Alignment, Tokenizer, TokenizerError

EOS_CANDIDATES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|eot_id|>")
BOS_CANDIDATES = ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>")
PAD_CANDIDATES = ("<|padding|>", "<pad>", "<PAD>", "[PAD]", "<|pad|>")
MAX_IDS = 1 << 24
"""Upper bound on ids, above any real vocabulary. It bounds the memory that the ids of a damaged file can ask for."""


class JsonTokenizer(Tokenizer):
    """The tokenizer in a `tokenizer.json` file. The library `tokenizers` is the backend that encodes and decodes."""

    kind = "tokenizers"
    file_name = "tokenizer.json"

    def __init__(self, path: Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> None:
        """Load the file. Raises TokenizerError if it is invalid, has too large an id, or lacks an end-of-text token."""
        super().__init__(path, extra_special_tokens, new_tokens)
        self.backend = _load_backend(path, extra_special_tokens)
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        largest = max(vocabulary.values(), default=0)
        if largest >= MAX_IDS:
            raise TokenizerError(f"{path}: has a token of id {largest:,}; ids go up to {MAX_IDS - 1:,}")
        self.tokens = [None] * (largest + 1)
        for token, token_id in vocabulary.items():
            self.tokens[token_id] = token
        self._choose_own_tokens()
        added = sorted(self.backend.get_added_tokens_decoder().items())
        # Open-Assistant lists the vocabulary's additional special tokens: EOS, BOS, pad and unknown are not among them.
        usual = {self.tokens[i] for i in (self.eos_token_id, self.bos_token_id, self.pad_token_id) if i is not None}
        usual |= {getattr(self.backend.model, "unk_token", None), *extra_special_tokens}
        own = [token.content for _, token in added if token.special and token.content not in usual]
        self.special_tokens = {token: vocabulary[token] for token in (*own, *extra_special_tokens)}

    @property
    def control_tokens(self) -> dict[str, int]:
        """{token: id} of every added token with the flag `special`, which EOS and BOS usually have."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in sorted(added.items()) if token.special}

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a vocabulary entry or added token, or None when the vocabulary lacks it."""
        token_id: int | None = self.backend.token_to_id(token)
        return token_id

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text. The backend finds control tokens in it."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from one call of the backend."""
        return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def align(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> Alignment:
        """Return the token ids of a text and the characters that each token covers (see `Tokenizer.align`).

        When a control token is spelled inside `plain`, `_marked_backend` encodes the text. It recognises a random mark
        in place of each control token, and only the control tokens outside of `plain` are replaced by their marks.
        """
        own, is_spelled = self.control_matches(text, plain)
        if not is_spelled:
            with self._exact_offsets():
                return self._alignment(self.backend.encode(text, add_special_tokens=False), text, {})
        pieces, positions, at = [], [], 0
        for match in own:
            mark = self._marks[match.group()]
            pieces += [text[at : match.start()], mark]
            positions += [*range(at, match.start() + 1), *[match.start()] * (len(mark) - 1)]
            at = match.end()
        positions += range(at, len(text) + 1)
        backend, ids = self._marked_backend
        marked = "".join([*pieces, text[at:]])
        found = self._alignment(backend.encode(marked, add_special_tokens=False), marked, ids)
        return Alignment(found.ids, *([positions[i] for i in places] for places in (found.begins, found.ends)))

    @cached_property
    def typed_pattern(self) -> re.Pattern[str]:
        """Regular expression for the control tokens, longer ones first. `single_word` tokens match only whole words."""
        added = sorted(self.backend.get_added_tokens_decoder().values(), key=lambda token: -len(token.content))
        found = [(re.escape(token.content), token.single_word) for token in added if token.special]
        return re.compile("|".join(rf"(?<!\w){name}(?!\w)" if alone else name for name, alone in found) or r"(?!)")

    def _alignment(self, encoding: Any, text: str, other_ids: Mapping[int, int]) -> Alignment:
        """Return a backend's encoding of `text` as an Alignment, with ids replaced as `other_ids` maps them.

        A token with the flag `lstrip` takes the white space before it; here it covers its own characters only.
        """
        ids = [other_ids.get(token_id, token_id) for token_id in encoding.ids] if other_ids else list(encoding.ids)
        begins, ends = zip(*encoding.offsets, strict=True) if ids else ((), ())
        found = Alignment(ids, list(begins), list(ends))
        for number, token_id in enumerate(ids) if self._taking_before else ():
            if token_id in self._taking_before:
                own = text[found.begins[number] : found.ends[number]]
                found.begins[number] += len(own) - len(own.lstrip())
        return found

    @cached_property
    def _taking_before(self) -> set[int]:
        """Ids of the added tokens with the flag `lstrip`, which take the white space before them."""
        return {token_id for token_id, token in self.backend.get_added_tokens_decoder().items() if token.lstrip}

    @contextlib.contextmanager
    def _exact_offsets(self) -> Iterator[None]:
        """Remove the backend's post-processor within the block: it trims white space from the offsets of tokens.

        It would not change any id here, because no special tokens are added.
        """
        processor = self.backend.post_processor
        self.backend.post_processor = None
        try:
            yield
        finally:
            self.backend.post_processor = processor

    @cached_property
    def _marks(self) -> dict[str, str]:
        """{control token: mark}. Marks are random texts that no message contains. They replace tokens in `align`."""
        nonce = secrets.token_hex(4)
        return {token: f"\x01{nonce}{number}\x02" for number, token in enumerate(self.control_tokens)}

    @cached_property
    def _marked_backend(self) -> tuple[Any, dict[int, int]]:
        """A backend that recognises marks instead of control tokens, and {id of its added token: id of this tokenizer}.

        The ids can differ: a control token that is also a piece of the vocabulary keeps its id there, so the mark gets
        another id, and so may the added tokens after it.
        """
        import tokenizers

        described = json.loads(self.backend.to_str())
        renamed = {}
        for token in described["added_tokens"]:
            token["content"] = self._marks.get(token["content"], token["content"])
            renamed[token["content"]] = token["id"]
        described["post_processor"] = None
        backend = tokenizers.Tokenizer.from_str(json.dumps(described))
        ids = {content: backend.token_to_id(content) for content in renamed}
        return backend, {own: renamed[content] for content, own in ids.items() if own is not None}

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids as the backend decodes them, with special tokens spelled out."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def _choose_own_tokens(self) -> None:
        """Set the ids of EOS, BOS and pad from `tokenizer_config.json` beside the file, else from their usual names."""
        config = read_json_object(self.path.with_name("tokenizer_config.json"), TokenizerError) or {}
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
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for content in extra_special_tokens:
        token = known.get(content)
        if token is None:
            backend.add_special_tokens([tokenizers.AddedToken(content, special=True, normalized=False)])
        elif not token.special:  # keeps the file's flags, which decide the ids beside the token
            flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
            backend.add_special_tokens([tokenizers.AddedToken(content, special=True, **flags)])
    return backend
