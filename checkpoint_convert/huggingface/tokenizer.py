"""Load the tokenizer of a Hugging Face folder, with the tokens that the files beside it add.

tokenizer = source_tokenizer(Path("HF_DIR"), ("<|im_start|>", "<|im_end|>"), new_tokens=True)
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from checkpoint_convert.huggingface.source_files import ADDED_TOKENS, TOKENIZER_CONFIG, SourceFiles
from checkpoint_convert.output.report import named, warn
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig
from pretokenizer.files.publish import read_json
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from pretokenizer.tokenizer.sentencepiece_tokenizer import WRAPPER_TOKENS

VOCABULARY, MERGES = "vocab.json", "merges.txt"
"""The two files of a byte-level BPE tokenizer without tokenizer.json."""


def source_tokenizer(folder: Path, extra_special_tokens: Sequence[str], new_tokens: bool) -> Tokenizer | None:
    """Return the tokenizer of a Hugging Face folder with `extra_special_tokens` added, or None without tokenizer file.

    Tokens that tokenizer_config.json or added_tokens.json add to the vocabulary are kept. With `new_tokens`, Megatron's
    own tokens, such as <CLS>, come before the extra ones of a tokenizer.model. transformers converts vocab.json and
    merges.txt. Raises TokenizerError or ConvertError naming the file, also when there is no file to add tokens to.
    """
    model, as_json = folder / "tokenizer.model", folder / "tokenizer.json"
    if not model.is_file() and not as_json.is_file() and (folder / VOCABULARY).is_file():
        as_json = Path(converted_vocabulary(folder).name) / as_json.name
    if not model.is_file() and not as_json.is_file():
        if extra_special_tokens:
            raise ConvertError(f"{folder}: has no tokenizer.model or tokenizer.json to add tokens to; copy one into it")
        return None
    if not model.is_file():
        return _with_added(load_tokenizer(as_json, extra_special_tokens), folder)
    kept, kept_wrapper = _added_beside(model)
    extra = [*kept, *(token for token in extra_special_tokens if token not in kept)]
    append_wrapper = new_tokens and bool(extra_special_tokens)
    if append_wrapper and kept and not kept_wrapper:
        append_wrapper = False
        warn(f"{folder}: already adds {named(kept)} to tokenizer.model, so {' '.join(WRAPPER_TOKENS)} are not added")
    tokenizer = load_tokenizer(model, extra, new_tokens=kept_wrapper or append_wrapper)
    for token, token_id in _added_outside(folder).items():
        if tokenizer.token_to_id(token) != token_id:
            found = f"{token} gets id {tokenizer.token_to_id(token)} instead of {token_id}"
            where = folder / (ADDED_TOKENS if (folder / ADDED_TOKENS).is_file() else TOKENIZER_CONFIG)
            raise ConvertError(f"{where}: {found}; name a token for every id after tokenizer.model's")
    return tokenizer


@cache
def converted_vocabulary(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder with the tokenizer.json that transformers makes of vocab.json and merges.txt in `folder`.

    It is removed when the program ends. Raises ConvertError when transformers cannot read the files, or ignores a part
    of them because the folder names another kind of tokenizer.
    """
    from transformers import AutoTokenizer

    remedy = f"name the right tokenizer_class in {folder / TOKENIZER_CONFIG}, such as GPT2Tokenizer"
    if not (folder / MERGES).is_file():
        raise ConvertError(f"{folder / MERGES}: missing beside {VOCABULARY}; fetch it, or tokenizer.json")
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        contents = json.loads(loaded.backend_tokenizer.to_str())
        expected = read_json(folder / VOCABULARY)
    except Exception as error:  # the classes of transformers raise many kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ConvertError(
            f"{folder}: transformers cannot read {VOCABULARY} and {MERGES}: {reason}; {remedy}"
        ) from None
    found = contents["model"]
    if found.get("vocab") != expected or not found.get("merges"):
        raise ConvertError(
            f"{folder}: {type(loaded).__name__} of transformers does not use {VOCABULARY} and {MERGES}; {remedy}"
        )
    target = tempfile.TemporaryDirectory(prefix="tokenizer-")
    loaded.save_pretrained(target.name)
    return target


def added_tokens(tokenizer: Tokenizer, folder: Path, extra_special_tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the tokens of `tokenizer` that the tokenizer files of the imported `folder` lack.

    Return an empty tuple when `extra_special_tokens` is empty, because the import then added no token.
    """
    own = source_tokenizer(folder, (), new_tokens=False) if extra_special_tokens else None
    known = {*own.tokens} if own else {*tokenizer.tokens}
    return tuple(token for token in tokenizer.tokens if token is not None and token not in known)


def _added_beside(model: Path) -> tuple[list[str], bool]:
    """Return the tokens that added_tokens.json and tokenizer.json add to tokenizer.model (`model`), in order of id.

    The second result states whether Megatron's own tokens are the first of them. If so, the list leaves these out.
    """
    added = _added_outside(model.parent)
    for token, token_id in _added_in_json(model.with_name("tokenizer.json")).items():
        added.setdefault(token, token_id)
    pieces = load_tokenizer(model, new_tokens=False).vocab_size if added else 0
    tokens = [token for token, token_id in sorted(added.items(), key=lambda item: item[1]) if token_id >= pieces]
    if tuple(tokens[: len(WRAPPER_TOKENS)]) != WRAPPER_TOKENS:
        return tokens, False
    wrapped = load_tokenizer(model, new_tokens=True)
    return [token for token in tokens if wrapped.token_to_id(token) is None], True


def _with_added(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json with the tokens that only the files beside it add, as transformers does.

    Raises ConvertError when such a token has an id that the vocabulary leaves no place for.
    """
    own = {*tokenizer.tokens} - {*tokenizer.extra_special_tokens}
    missing = {
        token: i
        for token, i in _added_outside(folder).items()
        if token not in own and tokenizer.token_to_id(token) != i
    }
    if not missing:
        return tokenizer
    completed = Path(completed_vocabulary(folder, tokenizer.path, tuple(sorted(missing, key=missing.__getitem__))).name)
    found = load_tokenizer(completed / "tokenizer.json", tokenizer.extra_special_tokens)
    for token, i in missing.items():
        if found.token_to_id(token) != i:
            raise ConvertError(
                f"{folder}: {token} gets id {found.token_to_id(token)} instead of {i}; name a token for every id after "
                "tokenizer.json's"
            )
    return found


@cache
def completed_vocabulary(folder: Path, vocabulary: Path, tokens: tuple[str, ...]) -> tempfile.TemporaryDirectory[str]:
    """Return a folder with the tokenizer.json `vocabulary`, to which `tokens` were added with the flags in `folder`.

    It is removed when the program ends.
    """
    import tokenizers

    flags = SourceFiles(folder, (), {}).flags()
    backend = tokenizers.Tokenizer.from_file(str(vocabulary))
    for token in tokens:
        backend.add_tokens([tokenizers.AddedToken(token, **flags.get(token, {"normalized": False}))])
    target = tempfile.TemporaryDirectory(prefix="tokenizer-")
    backend.save(f"{target.name}/tokenizer.json")
    if (folder / TOKENIZER_CONFIG).is_file():
        shutil.copyfile(folder / TOKENIZER_CONFIG, f"{target.name}/{TOKENIZER_CONFIG}")
    return target


def _added_outside(folder: Path) -> dict[str, int]:
    """Return {token: id} of added_tokens.json and of added_tokens_decoder in tokenizer_config.json."""
    path = folder / TOKENIZER_CONFIG
    decoder = SourceFiles(folder, (), {}).config.get("added_tokens_decoder") or {}
    try:
        stated = {str(entry["content"]): int(i) for i, entry in decoder.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConvertError(f"{path}: added_tokens_decoder is not a table of ids and tokens ({error!r})") from None
    return stated | _read_added_tokens(folder / ADDED_TOKENS)


def _added_in_json(path: Path) -> dict[str, int]:
    """Return {token: id} of the tokens that a tokenizer.json adds to its vocabulary, or {} without the file."""
    if not path.is_file():
        return {}
    try:
        return {str(entry["content"]): int(entry["id"]) for entry in read_json(path).get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: not a tokenizer.json ({error!r})") from None


def _read_added_tokens(path: Path) -> dict[str, int]:
    """Return {token: id} of an added_tokens.json, or {} without the file.

    Folders without tokenizer.json list their added tokens there.
    """
    if not path.is_file():
        return {}
    try:
        return {str(token): int(token_id) for token, token_id in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: not a table of tokens and ids ({error!r})") from None


def warn_of_rows_in_use(extra: Sequence[str], tokenizer: Tokenizer, model: ModelConfig, folder: Path) -> None:
    """Warn about `extra` tokens whose ids fall on existing rows of the source, because they keep the rows' weights.

    Such rows are padding, or belong to tokens of a missing file.
    """
    ids = {token: tokenizer.token_to_id(token) for token in extra}
    taken = {token: i for token, i in ids.items() if i is not None and i < model.vocab_size}
    own = source_tokenizer(folder, (), new_tokens=False) if taken else None
    taken = {token: i for token, i in taken.items() if own is None or own.token_to_id(token) != i}
    if taken:
        rows = named([f"{token} {i}" for token, i in taken.items()])
        warn(f"{folder}: already has {model.vocab_size:,} rows, so these tokens keep the weights of their rows: {rows}")


def warn_of_other_ids(config: Mapping[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    """Warn when bos_token_id or eos_token_id of config.json (`config`) differs from the tokenizer's, which is used."""
    for key, own in (("bos_token_id", tokenizer.bos_token_id), ("eos_token_id", tokenizer.eos_token_id)):
        given = config.get(key)
        if given is not None and own is not None and own not in (given if isinstance(given, list) else [given]):
            warn(f"{folder}/config.json: {key} is {given}, but the tokenizer's is {own}, which is used")


def warn_of_other_spaces(folder: Path) -> None:
    """Warn when tokenizer_config.json and tokenizer.json disagree on add_prefix_space, the space before a text.

    transformers follows tokenizer_config.json, but shards and exports with new tokens follow tokenizer.json.
    """
    stated = SourceFiles(folder, (), {}).config.get("add_prefix_space")
    if stated is None or not (folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file():
        return
    own = (read_json(folder / "tokenizer.json").get("pre_tokenizer") or {}).get("add_prefix_space")
    if own is not None and own != stated:
        warn(
            f"{folder}: add_prefix_space is {str(stated).lower()} in {TOKENIZER_CONFIG}, but {str(own).lower()} in "
            "tokenizer.json, which is used"
        )
