"""Write the tokenizer files of an exported folder.

    write_tokenizer_files(TokenizerExport(tokenizer, chat_format, source, adds_bos=False), Path("OUT"), max_length=4096)

Without new tokens and without training, an export gets the source's files. Every other export gets tokenizer.json,
tokenizer.model for SentencePiece, tokenizer_config.json, special_tokens_map.json and the chat templates. They have the
source's settings and flags, and the new tokens. `tokenizer_class` is PreTrainedTokenizerFast, with which every version
of transformers uses tokenizer.json unchanged, so that a text gets the ids of the shards.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_convert.huggingface.chat_template import recorded_chat_format
from checkpoint_convert.huggingface.generation import SpecialIds
from checkpoint_convert.huggingface.source_files import (
    FLAGS,
    TEMPLATES_DIR,
    TOKENIZER_CONFIG,
    SourceFiles,
    as_setting,
    copy_source,
    read_source,
    templates_in,
    write_json,
)
from checkpoint_convert.output.report import named, warn
from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.chat.formats import TEMPLATE_NAME, ChatFormat
from pretokenizer.tokenizer import sentencepiece_json
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.json_tokenizer import JsonTokenizer
from pretokenizer.tokenizer.load import load_tokenizer_folder, read_tokenizer_spec
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

PROBES = ("The  quick brown\tfox.\n\n    x = 10", " 1,000 ½ ﬁ Ａ é e\u0301 日本 🎉 ", "x<unk>y <0x0A> <s>", "")
"""Texts with runs of spaces, characters that normalization changes, and control tokens spelled in a text."""
CLASS_SETTINGS = {
    "tokenizer_class",
    "auto_map",
    "backend",
    "legacy",
    "add_prefix_space",
    "sp_model_kwargs",
    "from_slow",
    "tokenizer_file",
    "name_or_path",
    "is_local",
    "local_files_only",
    "processor_class",
    "extra_special_tokens",
    "added_tokens_decoder",
    "chat_template",
}
"""Keys of the source's tokenizer_config.json that are not copied.

They belong to its tokenizer class, or an export writes them itself.
"""

SAFE_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class TokenizerExport:
    """A checkpoint's tokenizer, and everything else that decides which tokenizer files an export gets."""

    tokenizer: Tokenizer
    chat_format: ChatFormat | None
    source: SourceFiles | None = None
    """Files of the imported folder, if the checkpoint has them."""
    adds_bos: bool | None = None
    """Whether texts in the shards begin with a BOS that the chat template does not write.

    None if the checkpoint was not trained on shards.
    """

    @property
    def is_source(self) -> bool:
        """Whether the export gets the imported folder's tokenizer files unchanged.

        This is so when no token was added and no shards were trained on.
        """
        return self.source is not None and not self.source.added and self.adds_bos is None

    def special_ids(self) -> SpecialIds:
        """Return the ids of the special tokens for config.json and generation_config.json.

        Raises ConvertError when the vocabulary lacks the chat format's end-of-turn token.
        """
        tokenizer, chat_format = self.tokenizer, self.chat_format
        eos = self._id("eos_token", tokenizer.eos_token_id)
        end_of_turn = eos
        if chat_format is not None:
            found = tokenizer.token_to_id(chat_format.end_of_turn)
            if found is None:
                raise ConvertError(
                    f"{tokenizer.path}: lacks {chat_format.end_of_turn}, which ends a turn of {chat_format.name}"
                )
            end_of_turn = found
        pad = self._id("pad_token", None if self.is_source else tokenizer.pad_token_id)
        assert eos is not None and end_of_turn is not None
        return SpecialIds(self._id("bos_token", tokenizer.bos_token_id), eos, pad, end_of_turn)

    def _id(self, name: str, otherwise: int | None) -> int | None:
        """Return the id of the special token `name` in the source's tokenizer files, else in its config.json.

        Return `otherwise` when neither has one.
        """
        if self.source is None:
            return otherwise
        token = self.source.token(name)
        found = None if token is None else self.tokenizer.token_to_id(token)
        if found is None:
            found = self.source.config_id(f"{name}_id")
        return otherwise if found is None else found


def checkpoint_tokenizer(folder: Path) -> TokenizerExport:
    """Return the tokenizer in a checkpoint's `tokenizer/`, with its chat format and the imported folder's files."""
    tokenizer = load_tokenizer_folder(folder)
    adds_bos = read_tokenizer_spec(folder).get("adds_bos")
    return TokenizerExport(tokenizer, recorded_chat_format(folder, tokenizer), read_source(folder), adds_bos)


def write_tokenizer_files(export: TokenizerExport, folder: Path, max_length: int) -> None:
    """Write the tokenizer files of an exported folder. `max_length` is the model's context length in tokens."""
    if export.is_source and export.source is not None:
        copy_source(export.source, folder)
        return
    import tokenizers  # here, to save memory when no tokenizer is written

    tokenizer = export.tokenizer
    contents = tokenizer_contents(export)
    backend = tokenizers.Tokenizer.from_str(json.dumps(contents))
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")
    if isinstance(tokenizer, SentencePieceTokenizer):
        shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
        if texts := differing_texts(tokenizer, backend):
            shown = named([repr(text) for text in texts])
            warn(
                f"tokenizer.json and tokenizer.model, with which the model was trained, give different ids for {shown}"
            )
    own = special_tokens(export)
    templates = chat_templates(export)
    settings = {
        **source_settings(export.source, max_length),
        **own,
        **bos_settings(export, contents),
        "added_tokens_decoder": {
            str(token["id"]): {"content": token["content"], **{flag: token[flag] for flag in FLAGS}}
            for token in contents["added_tokens"]
        },
        **({"chat_template": as_setting(templates)} if templates else {}),
    }
    write_json(folder / TOKENIZER_CONFIG, settings)
    write_json(folder / "special_tokens_map.json", own)
    write_templates(templates, folder)


def tokenizer_contents(export: TokenizerExport) -> dict[str, Any]:
    """Return the contents of an export's tokenizer.json. Its added tokens have the flags of the imported folder's."""
    tokenizer, source = export.tokenizer, export.source
    if isinstance(tokenizer, JsonTokenizer):
        contents: dict[str, Any] = json.loads(tokenizer.backend.to_str())
        if export.adds_bos is False:
            contents["post_processor"] = without_added(contents["post_processor"])
        return contents
    assert isinstance(tokenizer, SentencePieceTokenizer)
    if export.adds_bos is not None:
        contents = sentencepiece_json.tokenizer_json(tokenizer, export.adds_bos)
    elif source is None:
        contents = sentencepiece_json.tokenizer_json(tokenizer)
    else:
        contents = sentencepiece_json.tokenizer_json(tokenizer, source.adds("bos_token"), source.adds("eos_token"))
        if source.config:
            warn(
                "tokenizer.json gives SentencePiece's ids, as in shards; transformers 5 reads the source's "
                "tokenizer.model without the space piece in front of text that begins with a space or follows a "
                "control token"
            )
    if source is not None:
        contents["added_tokens"] = tokens_as_in_source(contents["added_tokens"], export, source)
    return contents


def tokens_as_in_source(
    tokens: list[dict[str, Any]], export: TokenizerExport, source: SourceFiles
) -> list[dict[str, Any]]:
    """Return the `added_tokens` of a SentencePiece model's tokenizer.json, with the source's flags and unknown token.

    The flag `normalized` is not copied, because SentencePiece encodes the text on each side of a control token
    separately. After training on shards, only the flag `special` is copied, because shards keep the spaces around a
    control token.
    """
    unknown = source.token("unk_token")
    unknown_id = None if unknown is None else export.tokenizer.token_to_id(unknown)
    if unknown is not None and unknown_id is not None and unknown not in {token["content"] for token in tokens}:
        tokens = sorted([*tokens, sentencepiece_json.added_token(unknown, unknown_id)], key=lambda token: token["id"])
    kept = {"special"} if export.adds_bos is not None else {*FLAGS} - {"normalized"}
    flags = source.flags()
    return [
        {**token, **{flag: value for flag, value in flags.get(token["content"], {}).items() if flag in kept}}
        for token in tokens
    ]


def without_added(processor: Any) -> Any:
    """Return a copy of tokenizer.json's post-processor that no longer adds special tokens, such as BOS, to a text."""
    if not isinstance(processor, dict):
        return processor
    if processor.get("type") == "Sequence":
        return {**processor, "processors": [without_added(part) for part in processor["processors"]]}
    if processor.get("type") != "TemplateProcessing":
        return processor
    kept = {name: [part for part in processor[name] if "SpecialToken" not in part] for name in ("single", "pair")}
    return {**processor, **kept, "special_tokens": {}}


def differing_texts(tokenizer: SentencePieceTokenizer, backend: Any) -> list[str]:
    """Return the test texts for which `backend` (tokenizer.json) and the SentencePiece tokenizer give different ids.

    The test texts are PROBES, and texts with each user-defined piece.
    """
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    defined = [token for token in added if not added[token].special and token in tokenizer.pieces]
    unread = added.keys() - tokenizer.special_tokens.keys() - {*defined}  # the unk_token, which is text in shards
    texts = [text for text in PROBES if not any(token in text for token in unread)]
    texts += [f"{before}{piece}{after}" for piece in defined for before, after in (("", ""), ("a ", " b"))]
    return [text for text in texts if backend.encode(text, add_special_tokens=False).ids != tokenizer.encode(text)]


def special_tokens(export: TokenizerExport) -> dict[str, str]:
    """Return bos_token, eos_token, pad_token and unk_token of an export, by name.

    eos_token is the token that ends a turn, because a reply stops there. A tokenizer without BOS, as Qwen's, gets none.
    """
    ids = export.special_ids()
    has_bos = export.source is None or export.source.config.get("bos_token", "unstated") is not None
    found = {"bos_token": ids.bos if has_bos else None, "eos_token": ids.end_of_turn, "pad_token": ids.pad}
    tokens = {name: export.tokenizer.id_to_token(i) for name, i in found.items() if i is not None}
    unknown = export.source.token("unk_token") if export.source else None
    own = export.source.token("eos_token") if export.source else None
    if own is not None and own != tokens["eos_token"]:
        warn(f"eos_token is {tokens['eos_token']}, which ends a turn (source: {own}); generation stops at both")
    return {**{name: token for name, token in tokens.items() if token}, **({"unk_token": unknown} if unknown else {})}


def source_settings(source: SourceFiles | None, max_length: int) -> dict[str, Any]:
    """Return the settings of an export's tokenizer_config.json that do not concern tokens.

    They have the source's values where it has them, else defaults, such as `max_length` tokens for model_max_length.
    """
    settings = {
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    own = source.config if source else {}
    kept = {name: value for name, value in own.items() if name not in CLASS_SETTINGS}
    return {**settings, **kept, "tokenizer_class": "PreTrainedTokenizerFast"}


def bos_settings(export: TokenizerExport, contents: dict[str, Any]) -> dict[str, bool]:
    """Return add_bos_token and add_eos_token of tokenizer_config.json, which llama.cpp reads.

    They state whether tokenizer.json adds BOS and EOS to a text. Return {} for an untrained model with its own
    tokenizer.json.
    """
    if isinstance(export.tokenizer, SentencePieceTokenizer):
        inserted = (contents["post_processor"] or {"special_tokens": {}})["special_tokens"]
        own = export.tokenizer
        tokens = {"add_bos_token": own.bos_token_id, "add_eos_token": own.eos_token_id}
        return {name: i is not None and own.id_to_token(i) in inserted for name, i in tokens.items()}
    return {} if export.adds_bos is None else {"add_bos_token": export.adds_bos, "add_eos_token": False}


def chat_templates(export: TokenizerExport) -> dict[str, str]:
    """Return {name: chat template} of an export: the recorded chat format's as `default`, and the source's others."""
    templates = templates_in(export.source.folder) if export.source else {}
    if export.chat_format is not None:
        templates = {**templates, "default": export.chat_format.hf_chat_template}
    return {name: templates[name] for name in sorted(templates, key=lambda name: name != "default")}


def write_templates(templates: dict[str, str], folder: Path) -> None:
    """Write {name: chat template} as chat_template.jinja and additional_chat_templates/NAME.jinja for transformers."""
    for name, template in templates.items():
        if not SAFE_NAME.fullmatch(name):
            warn(f"chat template {name!r} is only in {TOKENIZER_CONFIG}, because its name cannot be a file name")
            continue
        path = folder / TEMPLATE_NAME if name == "default" else folder / TEMPLATES_DIR / f"{name}.jinja"
        path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8")
