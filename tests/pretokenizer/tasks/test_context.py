"""A build uses the chat format that its configuration names, and records it in its output."""

import json
from pathlib import Path

import pytest

from pretokenizer.chat.jinja_format import TemplateFormat
from pretokenizer.config.settings import RunOptions
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.files.shard import ShardReader
from pretokenizer.tasks.context import load_plan_tokenizer
from tests.pretokenizer.conftest import BuildToy, make_toy_config, write_jsonl

DROPPING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "<think>b</think>c"},
    {"role": "user", "content": "d"},
    {"role": "assistant", "content": "<think>e</think>f"},
]


def test_a_named_template_of_a_tokenizer_config(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": [{"name": "short", "template": DROPPING}]}))
    config = make_toy_config(tmp_path, ["gsm8k"], chat_format=f"{path}:short", template_loss="reply")
    tokenizer, chat_format = load_plan_tokenizer(config)
    assert isinstance(chat_format, TemplateFormat) and chat_format.hf_chat_template == DROPPING
    assert (chat_format.loss, chat_format.end_of_turn) == ("reply", "<|im_end|>")
    assert tokenizer.token_to_id("<|im_end|>") == tokenizer.vocab_size - 1
    for field in ("loss", "history"):
        named = make_toy_config(tmp_path, ["gsm8k"], history="unroll")
        assert getattr(load_plan_tokenizer(named)[1], field) == {"loss": "reply", "history": "unroll"}[field]


def test_a_date_is_a_day(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="template_date: 'today'"):
        make_toy_config(tmp_path, ["gsm8k"], template_date="today")


def test_a_template_that_drops_thoughts_is_reported_and_unrolled(build_toy: BuildToy, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data/messages/train.jsonl", [{"messages": TALK}])
    (tmp_path / "t.jinja").write_text(DROPPING)
    keys = {"chat_format": str(tmp_path / "t.jinja")}
    manifest, folder = build_toy([{"messages": {"val_split": 0}}], **keys)
    assert manifest.splits["train"].documents == 1
    assert "1 of 2 compared replies" in (folder / "stats.md").read_text()
    assert manifest.section["template_date"] == "2025-01-01"
    keys |= {"history": "unroll", "output_dir": str(tmp_path / "unrolled")}
    manifest, folder = build_toy([{"messages": {"val_split": 0}}], **keys)
    assert manifest.splits["train"].documents == 2
    assert "compared replies" not in (folder / "stats.md").read_text()
    roles = [sorted(set(document.tolist())) for document in ShardReader(f"{folder}/toy-train-role")]
    assert roles == [[1, 2, 4], [1, 2, 4]]


def test_broken_unicode_in_a_field_is_a_bad_record(build_toy: BuildToy, tmp_path: Path) -> None:
    broken = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "\ud800"}]
    lines = [json.dumps({"messages": messages}) for messages in (TALK, broken, TALK)]
    path = tmp_path / "data/messages/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))
    manifest, _ = build_toy([{"messages": {"val_split": 0}}], RunOptions(max_bad_fraction=0.5))
    assert manifest.splits["train"].documents == 2
    assert "broken Unicode" in str(manifest.reports["bad_records"])
