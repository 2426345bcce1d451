"""Tokenizers: a SentencePiece `tokenizer.model` or any `tokenizer.json`, with special tokens added. (SHARED, converter)

    tokenizer = load_tokenizer("llama2/tokenizer.model", ("<|im_start|>", "<|im_end|>"))
    tokenizer.vocab_size                                  # 32007
    tokenizer.encode("<|im_start|>user\\nprompt<|im_end|>\\n")   # [32005, 1404, 13, 14032, 415, 32006, 29871, 13]

To a SentencePiece vocabulary `<CLS> <SEP> <EOD> <MASK> <PAD>` are appended before the extra tokens, as Megatron's
wrapper does, so that the ids equal the original's. Ids come from `sentencepiece` and `tokenizers` themselves: the
reference that the fast engine is proved against (encode/fast.py).

Source of the SentencePiece rules: LAION-AI/Open-Assistant f1e6ed9 pretokenizer/tokenizer/tokenizer.py.
"""

import hashlib
import json
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pretokenizer.files.publish import read_json, write_json_atomic

SPEC_NAME = "tokenizer_spec.json"
WRAPPER_TOKENS = ("<CLS>", "<SEP>", "<EOD>", "<MASK>")
EOS_CANDIDATES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|eot_id|>")
BOS_CANDIDATES = ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>")
MAX_IDS = 1 << 24
"""More than any vocabulary has; tables of this size are made."""
PAD_CANDIDATES = ("<|padding|>", "<pad>", "<PAD>", "[PAD]", "<|pad|>")


class TokenizerError(ValueError):
    """A tokenizer that cannot be loaded or does not fit; the message names the file."""


class Tokenizer(ABC):
    """A vocabulary with special tokens. Make one with load_tokenizer."""

    kind: ClassVar[str]
    file_name: ClassVar[str]

    def __init__(self, path: Path, extra_special_tokens: Sequence[str], new_tokens: bool) -> None:
        self.path = path
        self.extra_special_tokens = tuple(extra_special_tokens)
        self.new_tokens = new_tokens
        self.special_tokens: dict[str, int] = {}
        """Token -> id, in the original's order: what special_tokens.json lists."""
        self.pad_token_id: int
        self.eos_token_id: int
        """The model's own end of text, not the chat format's end of turn."""
        self.bos_token_id: int | None
        self.tokens: list[str | None] = []
        """id -> token; None where the vocabulary has a hole."""

    @property
    def control_tokens(self) -> dict[str, int]:
        """Token -> id of all that `encode` finds in a text."""
        return self.special_tokens

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Finds the control tokens in a text."""
        return re.compile("|".join(map(re.escape, self.control_tokens)) or r"(?!)")

    @property
    def vocab_size(self) -> int:
        """Number of ids, unpadded, added tokens included."""
        return len(self.tokens)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the id -> token table as JSON, so that both file kinds of one vocabulary agree."""
        table = json.dumps(self.tokens, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(table.encode("ascii")).hexdigest()

    @abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """The id of a token (a vocabulary entry, not a text), or None."""

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary entry of an id. Raises TokenizerError outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"{self.path}: token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self.tokens[token_id]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text in which special tokens, where they are spelled, become their ids. No BOS is added."""

    @abstractmethod
    def encode_plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts in which nothing is special: a control token spelled in a text stays text. Each text is taken
        to follow a control token, which makes a difference to vocabularies that mark only the start of a document.
        """

    @abstractmethod
    def encode_plain_offsets(self, text: str, at_start: bool = False) -> tuple[list[int], list[int]]:
        """(ids, begins) of such a text: begins are the characters at which the tokens begin. `at_start`: nothing stands
        before it.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are spelled out."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def save(self, folder: str | Path, chat_format: str | None = None) -> None:
        """Write the tokenizer's file and `tokenizer_spec.json`, from which load_tokenizer_folder makes it again."""
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
            "eos_token_id": self.eos_token_id,
            "bos_token_id": self.bos_token_id,
            "pad_token_id": self.pad_token_id,
            "special_tokens": self.special_tokens,
            "fingerprint": self.fingerprint,
        }
        write_json_atomic(folder / SPEC_NAME, spec, sync=False)


class SentencePieceTokenizer(Tokenizer):
    """Megatron's wrapper around a SentencePiece model, id for id."""

    kind = "sentencepiece"
    file_name = "tokenizer.model"

    def __init__(self, path: Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> None:
        import sentencepiece

        super().__init__(path, extra_special_tokens, new_tokens)
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
            self.num_pieces = int(self.processor.get_piece_size())
            self.tokens = [self.processor.id_to_piece(i) for i in range(self.num_pieces)]
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: not a SentencePiece model ({error})") from None
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        pad, bos, eos = (
            self._own_piece(i, fallback)
            for i, fallback in (
                (self.processor.pad_id(), "<PAD>"),
                (self.processor.bos_id(), "<BOS>"),
                (self.processor.eos_id(), "<EOS>"),
            )
        )
        for token in (*WRAPPER_TOKENS, pad, bos, eos):
            if new_tokens or token in self._ids:
                self._add_special(token)
        for token in extra_special_tokens:
            self._add_special(token)
        self.eos_token_id = self._ids.get(eos, self.num_pieces - 1)
        self.bos_token_id = self._ids.get(bos)
        self.pad_token_id = self._ids.get(pad, self.eos_token_id)

    def token_to_id(self, token: str) -> int | None:
        """The id of a piece or special token."""
        return self._ids.get(token)

    def encode(self, text: str) -> list[int]:
        """Fragments between special tokens are encoded each on its own, each with SentencePiece's dummy prefix."""
        ids: list[int] = []
        position = 0
        for match in self.control_pattern.finditer(text):
            ids += self.processor.encode(text[position : match.start()])
            ids.append(self.special_tokens[match.group()])
            position = match.end()
        return ids + list(self.processor.encode(text[position:]))

    def encode_plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """SentencePiece itself never reads control tokens from text."""
        return [list(self.processor.encode(text)) for text in texts]

    def encode_plain_offsets(self, text: str, at_start: bool = False) -> tuple[list[int], list[int]]:
        """From SentencePiece's own alignment."""
        mapping = self.processor.encode(text, out_type="offset_mapping")
        return list(mapping["ids"]), [begin for begin, _ in mapping["offsets"]]

    def decode(self, ids: Iterable[int]) -> str:
        """Runs of ordinary ids are decoded by SentencePiece, special ids are spelled out."""
        pieces: list[str] = []
        run: list[int] = []
        special = {i: token for token, i in self.special_tokens.items()}
        for token_id in map(int, ids):
            self.id_to_token(token_id)
            if token_id in special:
                pieces += [self.processor.decode(run), special[token_id]]
                run = []
            else:
                run.append(token_id)
        return "".join([*pieces, self.processor.decode(run)])

    def _own_piece(self, piece_id: int, fallback: str) -> str:
        return str(self.processor.id_to_piece(piece_id)) if piece_id >= 0 else fallback

    def _add_special(self, token: str) -> None:
        if token not in self._ids:
            self._ids[token] = len(self.tokens)
            self.tokens.append(token)
        self.special_tokens[token] = self._ids[token]


class JsonTokenizer(Tokenizer):
    """Any `tokenizer.json`, through Hugging Face `tokenizers`."""

    kind = "tokenizers"
    file_name = "tokenizer.json"

    def __init__(self, path: Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> None:
        super().__init__(path, extra_special_tokens, new_tokens)
        self.backend = _load_backend(path, extra_special_tokens)
        self._mark = f"\x01{secrets.token_hex(4)}\x02"  # random, so that no text has it
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        if max(vocabulary.values(), default=0) >= MAX_IDS:
            raise TokenizerError(
                f"{path}: has a token of id {max(vocabulary.values()):,}; at most {MAX_IDS:,} are taken"
            )
        self.tokens = [None] * (max(vocabulary.values()) + 1)
        for token, token_id in vocabulary.items():
            self.tokens[token_id] = token
        self._choose_own_tokens()
        added = sorted(self.backend.get_added_tokens_decoder().items())
        own = [token.content for _, token in added if token.special and token.content not in extra_special_tokens]
        eos = self.tokens[self.eos_token_id]
        self.special_tokens = {t: vocabulary[t] for t in (*(t for t in own if t != eos), *extra_special_tokens)}

    @property
    def control_tokens(self) -> dict[str, int]:
        """The special ones among the backend's added tokens; eos and bos are of them."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in sorted(added.items()) if token.special}

    def token_to_id(self, token: str) -> int | None:
        """The id of a vocabulary entry or added token."""
        token_id: int | None = self.backend.token_to_id(token)
        return token_id

    def encode(self, text: str) -> list[int]:
        """The backend finds special tokens in the text itself."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in one call."""
        return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As the backend, but a special token is text."""
        if self._marked_backend is not None:
            marked = [self._mark + text for text in texts]
            return [e.ids[1:] for e in self._marked_backend.encode_batch_fast(marked, add_special_tokens=False)]
        with self._specials_as_text():
            return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_plain_offsets(self, text: str, at_start: bool = False) -> tuple[list[int], list[int]]:
        """From the backend's own alignment."""
        if self._marked_backend is not None and not at_start:
            encoding = self._marked_backend.encode(self._mark + text, add_special_tokens=False)
            return list(encoding.ids[1:]), [begin - len(self._mark) for begin, _ in encoding.offsets[1:]]
        with self._specials_as_text():
            encoding = self.backend.encode(text, add_special_tokens=False)
        return list(encoding.ids), [begin for begin, _ in encoding.offsets]

    @cached_property
    def _marked_backend(self) -> Any | None:
        """A backend in which only `_mark` is special, for vocabularies that treat the start of a document in a way of
        its own (Metaspace with `prepend_scheme` first): after a mark a text is not that start. Else None.
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
        """The backend takes special tokens for text. (A second backend that always does would cost a second load.)"""
        self.backend.encode_special_tokens = True
        try:
            yield
        finally:
            self.backend.encode_special_tokens = False

    def decode(self, ids: Iterable[int]) -> str:
        """The backend's decoding, special tokens kept."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def _choose_own_tokens(self) -> None:
        """eos, bos and pad: as `tokenizer_config.json` beside the file says, else the usual names."""
        config = _read_json(self.path.with_name("tokenizer_config.json"))
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


def load_tokenizer(path: str | Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> Tokenizer:
    """Load a `tokenizer.model` or `tokenizer.json` (or a folder with one) and add special tokens that it lacks.

    `new_tokens` = False leaves out what the SentencePiece wrapper appends by itself; pad is eos then, if it has none.
    Raises TokenizerError naming the file.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in ("tokenizer.model", "tokenizer.json") if (path / name).is_file()]
        if not found:
            raise TokenizerError(f"{path}: has neither tokenizer.model nor tokenizer.json")
        path = found[0]
    if not path.is_file():
        raise TokenizerError(f"{path}: no such tokenizer file")
    if path.suffix == ".json":
        return JsonTokenizer(path, extra_special_tokens, new_tokens)
    return SentencePieceTokenizer(path, extra_special_tokens, new_tokens)


def load_tokenizer_folder(folder: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote. Raises TokenizerError when a file is missing or the vocabulary differs."""
    folder = Path(folder)
    spec = read_tokenizer_spec(folder)
    kinds: dict[str, type[Tokenizer]] = {t.kind: t for t in (SentencePieceTokenizer, JsonTokenizer)}
    if spec["kind"] not in kinds:
        raise TokenizerError(f"{folder / SPEC_NAME}: kind {spec['kind']!r} is not one of {', '.join(kinds)}")
    tokenizer = load_tokenizer(folder / kinds[spec["kind"]].file_name, spec["extra_special_tokens"], spec["new_tokens"])
    if tokenizer.fingerprint != spec["fingerprint"]:
        raise TokenizerError(f"{tokenizer.path}: its vocabulary is not the one that {SPEC_NAME} was written for")
    tokenizer.eos_token_id, tokenizer.pad_token_id = spec["eos_token_id"], spec["pad_token_id"]
    tokenizer.bos_token_id = spec["bos_token_id"]
    tokenizer.special_tokens = spec["special_tokens"]
    return tokenizer


def read_tokenizer_spec(folder: str | Path) -> dict[str, Any]:
    """`tokenizer_spec.json` as a dict: kind, extra_special_tokens, new_tokens, chat_format, ids, fingerprint."""
    path = Path(folder) / SPEC_NAME
    if not path.is_file():
        raise TokenizerError(f"{path}: missing; {folder} is not a tokenizer folder written by this project")
    spec = _read_json(path)
    keys = (
        "kind",
        "extra_special_tokens",
        "new_tokens",
        "eos_token_id",
        "bos_token_id",
        "pad_token_id",
        "special_tokens",
    )
    missing = [key for key in (*keys, "fingerprint") if key not in spec]
    if missing:
        raise TokenizerError(f"{path}: lacks {', '.join(missing)}")
    return spec


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot read: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object")
    return value
