import json
from pathlib import Path

import pytest

from pretokenizer.chat.formats import ChatFormatError
from pretokenizer.chat.template_source import template_path, template_source


def test_templates_of_a_tokenizer_config(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": "one"}))
    assert template_source(path) == "one" == template_source(path, "default")
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    path.write_text(json.dumps({"chat_template": named}))
    assert (template_source(path), template_source(path, "tool_use")) == ("one", "two")
    with pytest.raises(
        ChatFormatError, match=r"tokenizer_config\.json: has no chat template 'rag'; give one of .*:tool_use"
    ):
        template_source(path, "rag")
    path.write_text("{}")
    with pytest.raises(ChatFormatError, match=r"tokenizer_config\.json: has no chat_template"):
        template_source(path)
    path.write_text("{")
    with pytest.raises(ChatFormatError, match=r"tokenizer_config\.json: cannot read"):
        template_source(path)


def test_paths_with_a_name(tmp_path: Path) -> None:
    odd = tmp_path / "a:b.jinja"
    odd.write_text("x")
    assert template_path(str(odd)) == (str(odd), None)
    assert template_path("dir/tokenizer_config.json:rag") == ("dir/tokenizer_config.json", "rag")
    assert template_path("chatml") == ("chatml", None)
    with pytest.raises(ChatFormatError, match="holds one template"):
        template_source(odd, "rag")
