"""Tokenizer files of exported folders, as transformers reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from checkpoint_convert.huggingface.generation import write_generation_config
from checkpoint_convert.huggingface.tokenizer_files import TokenizerExport, write_tokenizer_files
from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.chat.roles import Role
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.sentencepiece_models import train_spm

CHATML = ("<|im_start|>", "<|im_end|>")
CONVERSATION = Conversation(
    (
        Message(Role.SYSTEM, "Be  brief.\n\n   Please"),
        Message(Role.USER, " The dog é 🎉?\n"),
        Message(Role.CONTEXT, "A dog."),
        Message(Role.ASSISTANT, "Yes.\n\n    def f():\n        pass"),
    )
)


def messages() -> list[dict[str, str]]:
    return [{"role": message.role.template_name, "content": message.text} for message in CONVERSATION.messages]


def write_and_load(tokenizer: Tokenizer, chat_format: str, folder: Path) -> transformers.PreTrainedTokenizerBase:
    write_tokenizer_files(TokenizerExport(tokenizer, CHAT_FORMATS[chat_format]), folder, max_length=64)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("kind", "chat_format"), [("spm", "chatml"), ("json", "chatml"), ("json", "oasst")])
def test_apply_chat_template_gives_the_pretokenizers_ids(
    spm_model: Path, json_tokenizer: Path, tmp_path: Path, kind: str, chat_format: str
) -> None:
    tokens = CHAT_FORMATS[chat_format].special_tokens
    tokenizer = load_tokenizer(spm_model if kind == "spm" else json_tokenizer, tokens)

    theirs = write_and_load(tokenizer, chat_format, tmp_path)
    encoded = theirs.apply_chat_template(messages(), tokenize=True, return_dict=True)

    text = CHAT_FORMATS[chat_format].render(CONVERSATION).text
    assert list(encoded["input_ids"]) == tokenizer.encode(text)
    assert len(theirs) == tokenizer.vocab_size


def test_written_folder_stops_and_pads(spm_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(spm_model, CHATML)
    end_of_turn = tokenizer.token_to_id("<|im_end|>")

    theirs = write_and_load(tokenizer, "chatml", tmp_path)
    write_generation_config(TokenizerExport(tokenizer, CHAT_FORMATS["chatml"]).special_ids(), {}, tmp_path)

    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<s>", "<|im_end|>", "<PAD>")
    assert theirs("dog")["input_ids"][0] == 1
    assert transformers.GenerationConfig.from_pretrained(tmp_path).eos_token_id == [2, end_of_turn]
    assert (tmp_path / "tokenizer.model").read_bytes() == spm_model.read_bytes()
    assert (tmp_path / "chat_template.jinja").read_text() == CHAT_FORMATS["chatml"].hf_chat_template


def test_other_ids_in_tokenizer_json_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = train_spm(tmp_path / "tokenizer.model", model_type="bpe", user_defined_symbols=["foo"])

    (tmp_path / "hf").mkdir()
    write_tokenizer_files(TokenizerExport(load_tokenizer(model), None), tmp_path / "hf", max_length=64)

    assert capsys.readouterr().err == (
        "warning: tokenizer.json and tokenizer.model, with which the model was trained, give different ids for "
        "'foo', 'a foo b'\n"
    )
