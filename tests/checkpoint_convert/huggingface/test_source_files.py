"""An export without new tokens keeps its source's tokenizer files, byte for byte and as transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.huggingface.source_files import keep_source, read_source, templates_in
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.tensors.tensor import ConvertError
from checkpoint_convert.verify.chat import check_chat
from tests.checkpoint_convert.huggingface.texts import texts_with

LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
PLAIN = "{% for m in messages %}[{{m.role}}]{{m.content}}</s>{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
SPECIAL = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "no bos": {"add_bos_token": False, "add_prefix_space": False},
    "bos and eos": {"add_bos_token": True, "add_eos_token": True},
    "legacy": {"add_bos_token": True, "legacy": True},
    "another eos": {"eos_token": "<|end|>", "added_tokens_decoder": {"400": {"content": "<|end|>", **SPECIAL}}},
    "flags": {
        "added_tokens_decoder": {
            "400": {**SPECIAL, "content": "<tool_call>", "special": False},
            "401": {**SPECIAL, "content": "<|end|>", "rstrip": True, "lstrip": True},
        },
    },
    "pad": {"pad_token": "[PAD]", "added_tokens_decoder": {"400": {"content": "[PAD]", **SPECIAL}}},
    "templates": {"chat_template": [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": "TOOL"}]},
}  # fmt: skip


def flags_of(tokenizer: Any) -> dict[int, Any]:
    return {i: token.__getstate__() for i, token in tokenizer.added_tokens_decoder.items()}


def assert_same_tokenizer(source: Path, export: Path) -> None:
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (export, source))
    assert (type(ours), flags_of(ours)) == (type(theirs), flags_of(theirs))
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.chat_template == theirs.chat_template
    texts = texts_with([token["content"] for token in flags_of(theirs).values()])
    assert len(texts) == 200
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == ids, repr(text)
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_a_sentencepiece_source_is_kept(llama_with_tokenizer: Path, tmp_path: Path, name: str) -> None:
    settings = SETTINGS[name]
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(LLAMA | settings))
    added = {token["content"]: int(i) for i, token in settings.get("added_tokens_decoder", {}).items()}
    (llama_with_tokenizer / "added_tokens.json").write_text(json.dumps(added))

    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())

    assert_same_tokenizer(llama_with_tokenizer, tmp_path / "out")
    for file in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        assert (tmp_path / "out" / file).read_bytes() == (llama_with_tokenizer / file).read_bytes()
    outcome = check_chat(tmp_path / "out", tmp_path / "ckpt" / "release")
    assert outcome is not None and outcome.problem == ""


def test_special_ids_of_the_source_are_kept(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    config = json.loads((llama_with_tokenizer / "config.json").read_text())
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 400}
    (llama_with_tokenizer / "config.json").write_text(json.dumps(config))
    decoder = {"400": {"content": "[PAD]", **SPECIAL}, "401": {"content": "<|end|>", **SPECIAL}}
    settings = {"pad_token": "[PAD]", "eos_token": "<|end|>", "added_tokens_decoder": decoder}
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(LLAMA | settings))
    (llama_with_tokenizer / "added_tokens.json").write_text('{"[PAD]": 400, "<|end|>": 401}')

    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())

    for name in ("config.json", "generation_config.json"):
        found = json.loads((tmp_path / "out" / name).read_text())
        assert (found["bos_token_id"], found["eos_token_id"], found["pad_token_id"]) == (1, [2, 401], 400), name


def test_a_changed_file_is_found(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(LLAMA))
    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())
    (tmp_path / "out" / "tokenizer_config.json").write_text("{}")

    outcome = check_chat(tmp_path / "out", tmp_path / "ckpt" / "release")

    assert outcome is not None and outcome.problem == "tokenizer_config.json changed"


def test_a_template_file_also_stands_in_tokenizer_config(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(LLAMA))
    (llama_with_tokenizer / "chat_template.jinja").write_text(PLAIN)
    (llama_with_tokenizer / "additional_chat_templates").mkdir()
    (llama_with_tokenizer / "additional_chat_templates" / "tool_use.jinja").write_text("TOOL")

    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions())
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())

    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == LLAMA | {
        "chat_template": [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": "TOOL"}]
    }
    assert_same_tokenizer(llama_with_tokenizer, tmp_path / "out")


def test_templates_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    assert templates_in(tmp_path) == {}
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "config"}')
    assert templates_in(tmp_path) == {"default": "config"}
    (tmp_path / "chat_template.jinja").write_text("file")
    assert templates_in(tmp_path) == {"default": "file"}
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ConvertError, match=r"chat_template\.jinja: cannot read"):
        templates_in(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default"}]}')
    with pytest.raises(ConvertError, match=r"tokenizer_config\.json: chat_template is neither text nor a list"):
        templates_in(tmp_path)


def test_folders_that_are_no_hugging_face_folders_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    keep_source(tmp_path, (), tmp_path / "tokenizer")

    assert read_source(tmp_path / "tokenizer") is None
