"""Load a tokenizer from its file, or from the folder that `Tokenizer.save` wrote. (SHARED)

tokenizer = load_tokenizer("llama2/tokenizer.model", ("<|im_start|>", "<|im_end|>"))
tokenizer.vocab_size                                         # 32007
tokenizer.encode("<|im_start|>user\\nprompt<|im_end|>\\n")   # [32005, 1404, 13, 14032, 415, 32006, 29871, 13]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretokenizer.files.publish import read_json_object
from pretokenizer.tokenizer.base import SPEC_NAME, Tokenizer, TokenizerError
from pretokenizer.tokenizer.json_tokenizer import JsonTokenizer
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

KINDS: dict[str, type[Tokenizer]] = {t.kind: t for t in (SentencePieceTokenizer, JsonTokenizer)}
TWO_FILES = ("vocab.json", "merges.txt")
"""The files of a tokenizer that was never saved as tokenizer.json."""
_SPEC_KEYS = (
    "kind",
    "extra_special_tokens",
    "new_tokens",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "special_tokens",
    "fingerprint",
)


def load_tokenizer(path: str | Path, extra_special_tokens: Sequence[str] = (), new_tokens: bool = True) -> Tokenizer:
    """Load a `tokenizer.model` or `tokenizer.json`, or a folder that holds one.

    `extra_special_tokens` are added unless the vocabulary has them. `new_tokens=False` leaves out the tokens that
    Megatron's wrapper appends to a SentencePiece vocabulary; a model without a pad token then pads with EOS. Raises
    TokenizerError naming the file.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / kind.file_name for kind in KINDS.values() if (path / kind.file_name).is_file()]
        if not found and not (path / TWO_FILES[0]).is_file():
            raise TokenizerError(f"{path}: has neither tokenizer.model nor tokenizer.json")
        path = found[0] if found else path / TWO_FILES[0]
    if path.name in TWO_FILES:
        raise TokenizerError(
            f"{path}: {' and '.join(TWO_FILES)} are the parts of a tokenizer; write its tokenizer.json with "
            f"transformers: AutoTokenizer.from_pretrained({str(path.parent)!r}).save_pretrained('OUT')"
        )
    if not path.is_file():
        raise TokenizerError(f"{path}: no such tokenizer file")
    if path.suffix == ".json":
        return JsonTokenizer(path, extra_special_tokens, new_tokens)
    return SentencePieceTokenizer(path, extra_special_tokens, new_tokens)


def load_tokenizer_folder(folder: str | Path) -> Tokenizer:
    """Load the tokenizer that `Tokenizer.save` wrote into `folder`.

    Raises TokenizerError if a file is missing, or the vocabulary differs from the one that was saved.
    """
    folder = Path(folder)
    spec = read_tokenizer_spec(folder)
    if spec["kind"] not in KINDS:
        raise TokenizerError(f"{folder / SPEC_NAME}: kind {spec['kind']!r} is not one of {', '.join(KINDS)}")
    tokenizer = load_tokenizer(folder / KINDS[spec["kind"]].file_name, spec["extra_special_tokens"], spec["new_tokens"])
    if tokenizer.fingerprint != spec["fingerprint"]:
        raise TokenizerError(f"{tokenizer.path}: its vocabulary is not the one that {SPEC_NAME} was written for")
    tokenizer.eos_token_id, tokenizer.pad_token_id = spec["eos_token_id"], spec["pad_token_id"]
    tokenizer.bos_token_id = spec["bos_token_id"]
    tokenizer.special_tokens = spec["special_tokens"]
    return tokenizer


def read_tokenizer_spec(folder: str | Path) -> dict[str, Any]:
    """Return the contents of `folder/tokenizer_spec.json`.

    Raises TokenizerError if the file is missing or lacks a key.
    """
    path = Path(folder) / SPEC_NAME
    spec = read_json_object(path, TokenizerError)
    if spec is None:
        raise TokenizerError(f"{path}: missing; {folder} is not a tokenizer folder written by this project")
    missing = [key for key in _SPEC_KEYS if key not in spec]
    if missing:
        raise TokenizerError(f"{path}: lacks {', '.join(missing)}")
    return spec
