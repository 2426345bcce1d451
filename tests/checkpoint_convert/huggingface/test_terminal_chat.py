"""The terminal chat gives transformers' own answers to the whole conversation so far."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from checkpoint_convert.huggingface.terminal_chat import chat
from tests.paths import ROOT
from tests.word_model import save_word_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_word_model(tmp_path_factory.mktemp("models") / "words")


def greedy(folder: Path, text: str) -> str:
    """Return transformers' greedy continuation of `text`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    reply = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    return str(tokenizer.decode(reply, skip_special_tokens=True)).strip()


def test_each_answer_follows_the_whole_conversation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = chat(folder, None, 5, ["why sky\n", "how\n", "\n", "never read\n"])
    assert first == greedy(folder, "user why sky assistant")
    assert second == greedy(folder, f"user why sky assistant {first} user how assistant")
    assert second in capsys.readouterr().out


def test_new_starts_a_conversation_that_keeps_the_system_message(folder: Path) -> None:
    _, second = chat(folder, "blue", 5, ["why sky\n", "/new\n", "how\n"])
    assert second == greedy(folder, "system blue user how assistant")


def test_a_folder_without_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"docs/config\.json: missing"):
        list(chat(ROOT / "docs", None, 5, ["why"]))
