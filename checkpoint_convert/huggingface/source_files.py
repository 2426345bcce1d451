"""The tokenizer files of an imported Hugging Face folder, kept in the checkpoint so that an export can give them back.

    keep_source(Path("HF_DIR"), added=(), folder=Path("CKPT_DIR/release/tokenizer"))
    source = read_source(Path("CKPT_DIR/iter_0000500/tokenizer"))
    copy_source(source, Path("OUT"))

Versions of transformers read the same files differently: one takes tokenizer.json as it is, another rebuilds it from
`tokenizer_class`, `legacy` and `add_prefix_space`. So an export without new tokens gets the files byte for byte.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from checkpoint_convert.huggingface.generation import generation_settings
from checkpoint_convert.output.report import warn
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.folder import SOURCE_TOKENIZER_DIR
from pretokenizer.chat.formats import TEMPLATE_NAME
from pretokenizer.files.publish import read_json_object

SOURCE_DIR = Path(SOURCE_TOKENIZER_DIR).name
"""Subfolder of a checkpoint's `tokenizer/` that holds the imported folder's tokenizer files."""
RECORD = "import.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"
TEMPLATES_DIR = "additional_chat_templates"
FILES = (
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    ADDED_TOKENS,
    "vocab.json",
    "merges.txt",
    TEMPLATE_NAME,
)
ID_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")
FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")
"""Flags that tokenizer.json states for each added token."""


@dataclass(frozen=True)
class SourceFiles:
    """The tokenizer files of an imported Hugging Face folder, as the checkpoint keeps them."""

    folder: Path
    added: tuple[str, ...]
    """Tokens that the import added to the source's vocabulary."""
    config_ids: dict[str, Any]
    """bos_token_id, eos_token_id and pad_token_id of the source's config.json."""
    generation: dict[str, Any] = field(default_factory=dict)
    """The source's generation settings. Training copies this record to its checkpoints, not generation_config.json."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """Contents of the source's tokenizer_config.json, or {} without it.

        Raises ConvertError naming a damaged file.
        """
        return _read_object(self.folder / TOKENIZER_CONFIG)

    def token(self, name: str) -> str | None:
        """Return the special token `name` (`pad_token`, ...) of the source, or None if its files set none."""
        for settings in (self.config, _read_object(self.folder / "special_tokens_map.json")):
            found = settings.get(name)
            if found is not None:
                return str(found["content"] if isinstance(found, dict) else found)
        return None

    def config_id(self, name: str) -> int | None:
        """Return the token id that the source's config.json has under `name` (`eos_token_id`, ...), or None.

        If it is a list of ids, return the first one.
        """
        found = self.config_ids.get(name)
        found = found[0] if isinstance(found, list) and found else found
        return found if isinstance(found, int) else None

    def adds(self, name: str) -> bool:
        """Return whether the source's tokenizer adds its special token `name` (`bos_token`, ...) to every text."""
        setting = self.config.get(f"add_{name}")
        if setting is not None:
            return bool(setting)
        processor = _read_object(self.folder / "tokenizer.json").get("post_processor")
        token = self.token(name)
        return token is not None and f'"SpecialToken": {{"id": {json.dumps(token)}' in json.dumps(processor)

    def flags(self) -> dict[str, dict[str, bool]]:
        """Return {added token: {flag: value}}. tokenizer_config.json takes precedence over tokenizer.json."""
        in_json = _read_object(self.folder / "tokenizer.json").get("added_tokens", [])
        entries = [*in_json, *self.config.get("added_tokens_decoder", {}).values()]
        return {entry["content"]: {flag: bool(entry.get(flag, False)) for flag in FLAGS} for entry in entries}


def keep_source(origin: Path, added: tuple[str, ...], folder: Path) -> None:
    """Copy the tokenizer files of `origin`, an imported folder, to the subfolder SOURCE_DIR of `folder`.

    A record beside them holds the special ids and generation settings of `origin`, and `added`, the tokens that the
    import added. Nothing is kept of a folder without config.json, such as Meta's, because no export could give its
    format back.
    """
    if not (origin / "config.json").is_file():
        return
    target = folder / SOURCE_DIR
    target.mkdir()
    for name in FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, target / name)
    if (origin / TEMPLATES_DIR).is_dir():
        (target / TEMPLATES_DIR).mkdir()
        for template in sorted((origin / TEMPLATES_DIR).glob("*.jinja")):
            shutil.copyfile(template, target / TEMPLATES_DIR / template.name)
    config = _read_object(origin / "config.json")
    ids = {name: config[name] for name in ID_NAMES if config.get(name) is not None}
    generation = generation_settings(origin, config)
    write_json(target / RECORD, {"added_tokens": list(added), "config_ids": ids, "generation": generation})


def read_source(folder: Path) -> SourceFiles | None:
    """Return the imported folder's files in a checkpoint's `tokenizer/`, or None when none were kept.

    Raises ConvertError for a damaged record.
    """
    target = folder / SOURCE_DIR
    if not (target / RECORD).is_file():
        return None
    record = _read_object(target / RECORD)
    try:
        added, ids = tuple(record["added_tokens"]), dict(record["config_ids"])
        return SourceFiles(target, added, ids, dict(record.get("generation", {})))
    except (KeyError, TypeError, ValueError) as error:
        raise ConvertError(f"{target / RECORD}: lacks {error}; import the model again") from None


def copy_source(source: SourceFiles, folder: Path) -> None:
    """Copy the tokenizer files of the imported folder to `folder`, the folder of an export.

    tokenizer_config.json gets the chat template too if only chat_template.jinja has it: transformers before 4.48, TGI
    and others read no other file.
    """
    for path in sorted(source.folder.iterdir()):
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif path.name != RECORD:
            shutil.copyfile(path, folder / path.name)
    if "chat_template" not in source.config:
        try:
            templates = templates_in(folder)
        except ConvertError as error:
            warn(str(error))
            return
        if templates:
            write_json(folder / TOKENIZER_CONFIG, {**source.config, "chat_template": as_setting(templates)})


def templates_in(folder: Path) -> dict[str, str]:
    """Return {name: chat template} of a folder, `default` first, as transformers reads them.

    Template files take precedence over tokenizer_config.json. Raises ConvertError naming a file that cannot be read.
    """
    files = {"default": folder / TEMPLATE_NAME}
    files |= {path.stem: path for path in sorted((folder / TEMPLATES_DIR).glob("*.jinja"))}
    found = {}
    for name, path in files.items():
        if path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConvertError(f"{path}: cannot read: {error}") from None
    if found:
        return found
    setting = _read_object(folder / TOKENIZER_CONFIG).get("chat_template")
    if isinstance(setting, str):
        return {"default": setting}
    try:
        named = {str(entry["name"]): str(entry["template"]) for entry in setting or []}
    except (KeyError, TypeError) as error:
        raise ConvertError(
            f"{folder / TOKENIZER_CONFIG}: chat_template is neither text nor a list: {error!r}"
        ) from None
    return {name: named[name] for name in sorted(named, key=lambda name: name != "default")}


def as_setting(templates: dict[str, str]) -> str | list[dict[str, str]]:
    """Return the value of `chat_template` for tokenizer_config.json: a single default template as text, else a list.

    `templates` maps names to chat templates. The list has {"name": ..., "template": ...} for each.
    """
    if set(templates) == {"default"}:
        return templates["default"]
    return [{"name": name, "template": template} for name, template in templates.items()]


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_object(path: Path) -> dict[str, Any]:
    return read_json_object(path, ConvertError, "; repair or remove it") or {}
