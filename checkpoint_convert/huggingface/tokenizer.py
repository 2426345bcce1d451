"""Tokenizers: which one a Hugging Face folder has, and the files that an exported folder needs.

    tokenizer = source_tokenizer(Path("HF_DIR"), ("<|im_start|>", "<|im_end|>"), new_tokens=True)
    write_tokenizer_files(tokenizer, CHAT_FORMATS["chatml"], Path("OUT"), max_length=4096)

Written: tokenizer.json, tokenizer.model where there is one, tokenizer_config.json, chat_template.jinja,
generation_config.json. `tokenizer_class` is PreTrainedTokenizerFast so that every version of transformers takes
tokenizer.json as it stands.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_convert.huggingface.sentencepiece_tokenizer import differing_texts, tokenizers_backend
from checkpoint_convert.report import named, warn
from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.chat.formats import CHAT_FORMATS, TEMPLATE_NAME, ChatFormat, ChatFormatError
from pretokenizer.chat.jinja_format import TemplateFormat, read_template
from pretokenizer.files.publish import read_json
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.json_tokenizer import JsonTokenizer
from pretokenizer.tokenizer.load import load_tokenizer, read_tokenizer_spec
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

GENERATION_CONFIG = "generation_config.json"
ADDED_TOKENS = "added_tokens.json"
WRAPPER = ("<CLS>", "<SEP>", "<EOD>", "<MASK>")


@dataclass(frozen=True)
class SpecialIds:
    """Ids as config.json and generation_config.json state them. `end_of_turn` is where a reply stops."""

    bos: int | None
    eos: int
    pad: int
    end_of_turn: int

    @property
    def stops(self) -> list[int]:
        return list(dict.fromkeys([self.eos, self.end_of_turn]))


def source_tokenizer(folder: Path, extra_special_tokens: Sequence[str], new_tokens: bool) -> Tokenizer | None:
    """The tokenizer of a Hugging Face folder with tokens added, or None when it has no tokenizer file.

    Without tokens to add, a folder whose tokenizer.json or added_tokens.json knows more tokens than its tokenizer.model
    keeps those.
    Raises TokenizerError or ConvertError naming the file.
    """
    model, as_json = folder / "tokenizer.model", folder / "tokenizer.json"
    if not model.is_file() and not as_json.is_file():
        if extra_special_tokens:
            raise ConvertError(f"{folder}: no tokenizer.model or tokenizer.json to add tokens to; put one there")
        return None
    if not model.is_file():
        return load_tokenizer(as_json, extra_special_tokens)
    kept, kept_wrapper = _added_beside(model)
    extra = [*kept, *(token for token in extra_special_tokens if token not in kept)]
    tokenizer = load_tokenizer(model, extra, new_tokens=kept_wrapper or (new_tokens and bool(extra_special_tokens)))
    for token, token_id in _read_added_tokens(folder / ADDED_TOKENS).items():
        if tokenizer.token_to_id(token) != token_id:
            found = f"{token} would get id {tokenizer.token_to_id(token)} instead of {token_id}"
            raise ConvertError(f"{folder / ADDED_TOKENS}: {found}; name a token for every id after tokenizer.model's")
    return tokenizer


def _added_beside(model: Path) -> tuple[list[str], bool]:
    """(tokens that the files beside tokenizer.model append to its pieces, whether Megatron's own are the first)."""
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
    """Token -> id of the tokens that a tokenizer.json adds to its vocabulary."""
    if not path.is_file():
        return {}
    try:
        return {str(entry["content"]): int(entry["id"]) for entry in read_json(path).get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: not a tokenizer.json ({error!r})") from None


def _read_added_tokens(path: Path) -> dict[str, int]:
    """Token -> id of an added_tokens.json, in which folders without tokenizer.json keep what was added."""
    if not path.is_file():
        return {}
    try:
        return {str(token): int(token_id) for token, token_id in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: not a table of tokens and ids ({error!r})") from None


def chat_template_of(folder: Path) -> tuple[str, Path] | None:
    """(chat template, file it stands in) of a folder: chat_template.jinja, else the default of tokenizer_config.json.

    Raises ChatFormatError or UnicodeDecodeError naming a file that cannot be read.
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
    """The chat format whose template the folder has, else the one whose control tokens were added, or None.

    A template of the folder's own is carried as it is where it can be asked for a prompt and a reply.
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
    """`tokenizer/` of a checkpoint: the tokenizer, the name of its chat format, and the template."""
    tokenizer.save(folder, chat_format.name if chat_format else None)
    if chat_format is not None:
        (folder / TEMPLATE_NAME).write_text(chat_format.hf_chat_template, encoding="utf-8")


def recorded_chat_format(folder: Path, tokenizer: Tokenizer) -> ChatFormat | None:
    """The chat format that `tokenizer/` was saved with; a Jinja template lies beside it."""
    name = read_tokenizer_spec(folder).get("chat_format")
    if name is None or name in CHAT_FORMATS:
        return CHAT_FORMATS.get(name or "")
    try:
        return read_template(folder / TEMPLATE_NAME, tokenizer)
    except ChatFormatError as error:
        warn(f"chat format {name!r} has no usable template, so none is written: {error}")
        return None


def special_ids(tokenizer: Tokenizer, chat_format: ChatFormat | None) -> SpecialIds:
    """Ids for the configs. Raises ConvertError when the vocabulary lacks the format's end of turn."""
    end_of_turn = tokenizer.eos_token_id
    if chat_format is not None:
        found = tokenizer.token_to_id(chat_format.end_of_turn)
        if found is None:
            raise ConvertError(
                f"{tokenizer.path}: has no {chat_format.end_of_turn}, where {chat_format.name} ends a turn"
            )
        end_of_turn = found
    return SpecialIds(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, end_of_turn)


def write_tokenizer_files(tokenizer: Tokenizer, chat_format: ChatFormat | None, folder: Path, max_length: int) -> None:
    """Everything AutoTokenizer and the other readers of such a folder look for."""
    backend = _backend(tokenizer)
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")
    if isinstance(tokenizer, SentencePieceTokenizer):
        shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
        if texts := differing_texts(tokenizer, backend):
            shown = named([repr(text) for text in texts])
            warn(f"tokenizer.json gives other ids than tokenizer.model, which the model was trained with, to {shown}")
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


def generation_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder says about generation: its generation_config.json, else the token ids of its config.json.

    Raises ConvertError naming the file.
    """
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: config[name] for name in names if config.get(name) is not None}
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path}: cannot read: {error}; mend or remove it") from None
    if not isinstance(found, dict) or not all(isinstance(i, int) for i in stops_of(found)):
        raise ConvertError(f"{path}: expected a JSON object with ids as eos_token_id; mend or remove it")
    return found


def stops_of(settings: Mapping[str, Any]) -> list[int]:
    """The ids at which generation ends: one, several or none."""
    found = settings.get("eos_token_id")
    return found if isinstance(found, list) else [] if found is None else [found]


def write_generation_config(ids: SpecialIds | None, settings: Mapping[str, Any], folder: Path) -> None:
    """`settings` of the source; a reply ends at end of text, the format's end of turn and where theirs did."""
    own: dict[str, Any] = {}
    if ids is not None:
        bos = {} if ids.bos is None else {"bos_token_id": ids.bos}
        own = {**bos, "eos_token_id": list(dict.fromkeys([*ids.stops, *stops_of(settings)])), "pad_token_id": ids.pad}
    if own or settings:
        _write_json(folder / GENERATION_CONFIG, {**settings, **own})


def _backend(tokenizer: Tokenizer) -> Any:
    if isinstance(tokenizer, SentencePieceTokenizer):
        return tokenizers_backend(tokenizer)
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
