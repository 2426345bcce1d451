"""The converter finds a folder's chat format by its template or its control tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoint_convert.huggingface.chat_template import chat_format_of, recorded_chat_format, save_with_template
from checkpoint_convert.huggingface.tokenizer import source_tokenizer
from checkpoint_convert.huggingface.tokenizer_files import TokenizerExport, write_tokenizer_files
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.tokenizer.load import load_tokenizer

CHATML = ("<|im_start|>", "<|im_end|>")


def test_chat_format_is_recognised_by_its_template(json_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(json_tokenizer, CHAT_FORMATS["oasst"].special_tokens)
    write_tokenizer_files(TokenizerExport(tokenizer, CHAT_FORMATS["oasst"]), tmp_path, max_length=64)

    again = source_tokenizer(tmp_path, (), new_tokens=True)

    assert again is not None
    assert again.extra_special_tokens == ()
    assert again.fingerprint == tokenizer.fingerprint
    assert chat_format_of(again, tmp_path) is CHAT_FORMATS["oasst"]


def test_a_template_of_its_own_travels_with_the_tokenizer(spm_model: Path, tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    )
    (tmp_path / "chat_template.jinja").write_text(source)
    tokenizer = load_tokenizer(spm_model, CHATML)

    found = chat_format_of(tokenizer, tmp_path)
    save_with_template(tokenizer, found, tmp_path / "tokenizer")
    recorded = recorded_chat_format(tmp_path / "tokenizer", tokenizer)

    assert recorded is not None
    assert (recorded.name, recorded.hf_chat_template, recorded.end_of_turn) == ("jinja", source, "<|im_end|>")


@pytest.mark.parametrize("is_list", [False, True])
def test_a_template_in_tokenizer_config_is_the_folders_own(spm_model: Path, tmp_path: Path, is_list: bool) -> None:
    source = (
        "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
    )
    tools = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": source}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": tools if is_list else source}))

    found = chat_format_of(load_tokenizer(spm_model, CHATML), tmp_path)

    assert found is not None
    assert (found.name, found.hf_chat_template, found.end_of_turn) == ("jinja", source, "</s>")


def test_a_template_that_is_no_template_is_left_out(
    spm_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% for %}")

    assert chat_format_of(load_tokenizer(spm_model, CHATML), tmp_path) is None
    assert "the chat template is left out: " in capsys.readouterr().err
