"""A chat gets the same ids from the source's chat template, from the shards, and from the export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import transformers

from checkpoint_convert.__main__ import main
from checkpoint_convert.convert import from_hf
from checkpoint_convert.mapping.options import ImportOptions
from pretokenizer.build import build
from pretokenizer.config.settings import RunOptions
from pretokenizer.files.shard import ShardReader
from tests.pretokenizer.conftest import make_toy_config, question_records, write_jsonl

QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of Qwen2-7B-Instruct."""
SPECIAL = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
SETTINGS = {
    "add_prefix_space": False,
    "added_tokens_decoder": {
        "0": {"content": "<|endoftext|>", **SPECIAL},
        "320": {"content": "<|im_start|>", **SPECIAL},
        "321": {"content": "<|im_end|>", **SPECIAL},
    },
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "bos_token": None,
    "chat_template": QWEN2,
    "eos_token": "<|im_end|>",
    "errors": "replace",
    "model_max_length": 32768,
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
}


@pytest.fixture
def qwen(hf_folder: Callable[[str], Path], json_tokenizer: Path, tmp_path: Path) -> Path:
    """A tiny Qwen2 with the files of Qwen's repositories."""
    folder = tmp_path / "qwen"
    shutil.copytree(hf_folder("qwen2"), folder)
    tokenizers.Tokenizer.from_file(str(json_tokenizer)).model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    config = json.loads((folder / "config.json").read_text()) | {"bos_token_id": 0, "eos_token_id": 321}
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": [321, 0], "do_sample": True, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.slow
def test_a_qwen_export_agrees_with_its_own_template_and_the_shards(
    qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from_hf(qwen, tmp_path / "base", ImportOptions())
    release = tmp_path / "base" / "release"
    (tmp_path / "data/gsm8k").mkdir(parents=True)
    write_jsonl(tmp_path / "data/gsm8k/train.jsonl", question_records(2))
    vocabulary, template = str(release / "tokenizer" / "tokenizer.json"), str(qwen / "tokenizer_config.json")
    config = make_toy_config(tmp_path, ["gsm8k"], vocab_file=vocabulary, chat_format=template)
    build(config, RunOptions())
    trained = tmp_path / "run" / "iter_0000001"  # as a run of the trainer leaves it
    shutil.copytree(release, trained)
    shutil.copytree(config.output_folder / "tokenizer", trained / "tokenizer", dirs_exist_ok=True)
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("1")

    assert main(["to-hf", str(tmp_path / "run"), str(tmp_path / "export"), "--no_verify"]) == 0
    assert main(["verify", str(tmp_path / "export"), str(tmp_path / "run"), "--serve"]) == 0

    lines = capsys.readouterr().out
    assert "chat template gives the pretokenizer's" in lines
    assert "serve: vLLM stops at 321, 0, template of chat_template.jinja" in lines
    talk = [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "It is 2.\n#### 2"}]
    shard = ShardReader(config.output_folder / "toy-train-text")
    documents = [shard[i].tolist() for i in range(len(shard))]
    for folder in (qwen, tmp_path / "export"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        assert list(tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"]) in documents
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (321, 0, None)
        assert tokenizer.chat_template == QWEN2
        assert tokenizer("a b")["input_ids"] == transformers.AutoTokenizer.from_pretrained(qwen)("a b")["input_ids"]
    written = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert (written["eos_token_id"], written["top_k"]) == ([321, 0], 20)
