"""Find the tokenizer of a Hugging Face folder, and write the tokenizer files of an exported one.

    tokenizer = source_tokenizer(Path("HF_DIR"), ("<|im_start|>", "<|im_end|>"), new_tokens=True)
    write_tokenizer_files(tokenizer, CHAT_FORMATS["chatml"], Path("OUT"), max_length=4096)

An export has tokenizer.json, tokenizer.model for SentencePiece, tokenizer_config.json, special_tokens_map.json and
chat_template.jinja. `tokenizer_class` is PreTrainedTokenizerFast, with which every version of transformers uses
tokenizer.json unchanged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from checkpoint_convert.huggingface.generation import SpecialIds
from checkpoint_convert.output.report import named, warn
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig
from pretokenizer.chat.formats import CHAT_FORMATS, TEMPLATE_NAME, ChatFormat, ChatFormatError
from pretokenizer.chat.jinja_format import TemplateFormat, read_template
from pretokenizer.files.publish import read_json
from pretokenizer.tokenizer import sentencepiece_json
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.json_tokenizer import JsonTokenizer
from pretokenizer.tokenizer.load import load_tokenizer, read_tokenizer_spec
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

ADDED_TOKENS = "added_tokens.json"
WRAPPER = ("<CLS>", "<SEP>", "<EOD>", "<MASK>")
PROBES = ("The  quick brown\tfox.\n\n    x = 10", " 1,000 ½ ﬁ Ａ é e\u0301 日本 🎉 ", "x<unk>y <0x0A> <s>", "")
"""Texts with runs of spaces, characters that normalisation changes, and pieces that stay text when spelled."""


def source_tokenizer(folder: Path, extra_special_tokens: Sequence[str], new_tokens: bool) -> Tokenizer | None:
    """Return the tokenizer of a Hugging Face folder with `extra_special_tokens` added, or None without tokenizer file.

    Tokens that tokenizer.json or added_tokens.json add to tokenizer.model are kept. `new_tokens` adds Megatron's own
    tokens before the extra ones. Raises TokenizerError or ConvertError naming the file.
    """
    model, as_json = folder / "tokenizer.model", folder / "tokenizer.json"
    if not model.is_file() and not as_json.is_file():
        if extra_special_tokens:
            raise ConvertError(f"{folder}: has no tokenizer.model or tokenizer.json to add tokens to; copy one into it")
        return None
    if not model.is_file():
        return load_tokenizer(as_json, extra_special_tokens)
    kept, kept_wrapper = _added_beside(model)
    extra = [*kept, *(token for token in extra_special_tokens if token not in kept)]
    tokenizer = load_tokenizer(model, extra, new_tokens=kept_wrapper or (new_tokens and bool(extra_special_tokens)))
    for token, token_id in _read_added_tokens(folder / ADDED_TOKENS).items():
        if tokenizer.token_to_id(token) != token_id:
            found = f"{token} gets id {tokenizer.token_to_id(token)} instead of {token_id}"
            raise ConvertError(f"{folder / ADDED_TOKENS}: {found}; name a token for every id after tokenizer.model's")
    return tokenizer


def _added_beside(model: Path) -> tuple[list[str], bool]:
    """Return the tokens that files beside `model` add to its pieces, and whether Megatron's own are the first."""
    added = _read_added_tokens(model.with_name(ADDED_TOKENS))
    for token, token_id in _added_in_json(model.with_name("tokenizer.json")).items():
        added.setdefault(token, token_id)
    pieces = load_tokenizer(model, new_tokens=False).vocab_size if added else 0
    tokens = [token for token, token_id in sorted(added.items(), key=lambda item: item[1]) if token_id >= pieces]
    if tuple(tokens[: len(WRAPPER)]) != WRAPPER:
        return tokens, False
    wrapped = load_tokenizer(model, new_tokens=True)
    return [token for token in tokens if wrapped.token_to_id(token) is None], True


def _added_in_json(path: Path) -> dict[str, int]:
    """Return {token: id} of the tokens that a tokenizer.json adds to its vocabulary."""
    if not path.is_file():
        return {}
    try:
        return {str(entry["content"]): int(entry["id"]) for entry in read_json(path).get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: not a tokenizer.json ({error!r})") from None


def _read_added_tokens(path: Path) -> dict[str, int]:
    """Return {token: id} of an added_tokens.json, where folders without tokenizer.json list added tokens."""
    if not path.is_file():
        return {}
    try:
        return {str(token): int(token_id) for token, token_id in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: not a table of tokens and ids ({error!r})") from None


def warn_of_rows_in_use(extra: Sequence[str], tokenizer: Tokenizer, model: ModelConfig, folder: Path) -> None:
    """Warn about new tokens that fall on existing rows of the source: padding rows, or rows of a missing token file."""
    ids = {token: tokenizer.token_to_id(token) for token in extra}
    taken = {token: i for token, i in ids.items() if i is not None and i < model.vocab_size}
    own = source_tokenizer(folder, (), new_tokens=False) if taken else None
    taken = {token: i for token, i in taken.items() if own is None or own.token_to_id(token) != i}
    if taken:
        rows = named([f"{token} {i}" for token, i in taken.items()])
        warn(f"{folder}: already has {model.vocab_size:,} rows, so these tokens keep the weights of their rows: {rows}")


def warn_of_other_ids(config: Mapping[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    """Warn about special ids of config.json that differ from the tokenizer's."""
    for key, own in (("bos_token_id", tokenizer.bos_token_id), ("eos_token_id", tokenizer.eos_token_id)):
        given = config.get(key)
        if given is not None and own is not None and own not in (given if isinstance(given, list) else [given]):
            warn(f"{folder}/config.json: {key} is {given}, but the tokenizer's is {own}, which is used")


def chat_template_of(folder: Path) -> tuple[str, Path] | None:
    """Return a folder's chat template and its file: chat_template.jinja, else the default of tokenizer_config.json.

    Raises ChatFormatError or UnicodeDecodeError for a file that cannot be read.
    """
    file, config = folder / TEMPLATE_NAME, folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8"), file
    try:
        found = read_json(config).get("chat_template") if config.is_file() else None
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChatFormatError(f"{config}: cannot read its chat_template: {error!r}") from None
    return (found, config) if isinstance(found, str) else None


def chat_format_of(tokenizer: Tokenizer, folder: Path) -> ChatFormat | None:
    """Return the chat format of a folder's template, else the format whose control tokens were added, else None.

    A template that matches none of our formats becomes a TemplateFormat if it can render a prompt and a reply.
    """
    try:
        template = chat_template_of(folder)
        if template is not None:
            text, path = template
            named = next((f for f in CHAT_FORMATS.values() if f.hf_chat_template == text), None)
            return named or TemplateFormat(text, str(path), tokenizer)
    except (ChatFormatError, UnicodeDecodeError) as error:
        warn(f"the chat template is left out: {error}")
        return None
    added, known = set(tokenizer.extra_special_tokens), {*tokenizer.special_tokens, "<|endoftext|>"}
    formats = (f for f in CHAT_FORMATS.values() if known.issuperset(f.special_tokens) and added & {*f.special_tokens})
    return next(formats, None)


def save_with_template(tokenizer: Tokenizer, chat_format: ChatFormat | None, folder: Path) -> None:
    """Write `tokenizer/` of a checkpoint: the tokenizer, the name of its chat format, and the template."""
    tokenizer.save(folder, chat_format.name if chat_format else None)
    if chat_format is not None:
        (folder / TEMPLATE_NAME).write_text(chat_format.hf_chat_template, encoding="utf-8")


def recorded_chat_format(folder: Path, tokenizer: Tokenizer) -> ChatFormat | None:
    """Return the chat format recorded in a checkpoint's `tokenizer/`, which also holds a template of the user's own."""
    name = read_tokenizer_spec(folder).get("chat_format")
    if name is None or name in CHAT_FORMATS:
        return CHAT_FORMATS.get(name or "")
    try:
        return read_template(folder / TEMPLATE_NAME, tokenizer)
    except ChatFormatError as error:
        warn(f"chat format {name!r} has no usable template, so no template is written: {error}")
        return None


def special_ids(tokenizer: Tokenizer, chat_format: ChatFormat | None) -> SpecialIds:
    """Return the ids for config.json and generation_config.json.

    Raises ConvertError when the vocabulary lacks the chat format's end-of-turn token.
    """
    end_of_turn = tokenizer.eos_token_id
    if chat_format is not None:
        found = tokenizer.token_to_id(chat_format.end_of_turn)
        if found is None:
            raise ConvertError(
                f"{tokenizer.path}: lacks {chat_format.end_of_turn}, which ends a turn of {chat_format.name}"
            )
        end_of_turn = found
    return SpecialIds(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, end_of_turn)


def write_tokenizer_files(tokenizer: Tokenizer, chat_format: ChatFormat | None, folder: Path, max_length: int) -> None:
    """Write the tokenizer files of an exported folder, as transformers, vLLM and llama.cpp read them."""
    backend = _backend(tokenizer)
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")
    if isinstance(tokenizer, SentencePieceTokenizer):
        shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
        if texts := differing_texts(tokenizer, backend):
            shown = named([repr(text) for text in texts])
            warn(
                f"tokenizer.json and tokenizer.model, with which the model was trained, give different ids for {shown}"
            )
    ids = special_ids(tokenizer, chat_format)
    own = {
        name: tokenizer.id_to_token(i)
        for name, i in (("bos_token", ids.bos), ("eos_token", ids.end_of_turn), ("pad_token", ids.pad))
        if i is not None
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **own,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "added_tokens_decoder": _added_tokens(backend),
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", own)
    if chat_format is not None:
        (folder / TEMPLATE_NAME).write_text(chat_format.hf_chat_template, encoding="utf-8")


def differing_texts(tokenizer: SentencePieceTokenizer, backend: Any) -> list[str]:
    """Return the probe texts, with the user-defined pieces, that `backend` encodes differently from SentencePiece."""
    defined = [t.content for t in backend.get_added_tokens_decoder().values() if not t.special]
    texts = [*PROBES, *(f"{before}{piece}{after}" for piece in defined for before, after in (("", ""), ("a ", " b")))]
    return [text for text in texts if backend.encode(text, add_special_tokens=False).ids != tokenizer.encode(text)]


def _backend(tokenizer: Tokenizer) -> Any:
    if isinstance(tokenizer, SentencePieceTokenizer):
        return tokenizers.Tokenizer.from_str(json.dumps(sentencepiece_json.tokenizer_json(tokenizer)))
    assert isinstance(tokenizer, JsonTokenizer)
    return tokenizer.backend


def _added_tokens(backend: Any) -> dict[str, dict[str, Any]]:
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    tokens = backend.get_added_tokens_decoder()
    return {
        str(i): {"content": tokens[i].content, **{flag: getattr(tokens[i], flag) for flag in flags}}
        for i in sorted(tokens)
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
