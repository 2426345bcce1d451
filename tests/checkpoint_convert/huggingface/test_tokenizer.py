"""Tokenizer files of exported folders, as transformers reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers

from checkpoint_convert.huggingface.generation import write_generation_config
from checkpoint_convert.huggingface.tokenizer import (
    chat_format_of,
    recorded_chat_format,
    save_with_template,
    source_tokenizer,
    special_ids,
    write_tokenizer_files,
)
from checkpoint_convert.tensors.tensor import ConvertError
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
    write_tokenizer_files(tokenizer, CHAT_FORMATS[chat_format], folder, max_length=64)
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
    write_generation_config(special_ids(tokenizer, CHAT_FORMATS["chatml"]), {}, tmp_path)

    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<s>", "<|im_end|>", "<PAD>")
    assert theirs("dog")["input_ids"][0] == 1
    assert transformers.GenerationConfig.from_pretrained(tmp_path).eos_token_id == [2, end_of_turn]
    assert (tmp_path / "tokenizer.model").read_bytes() == spm_model.read_bytes()
    assert (tmp_path / "chat_template.jinja").read_text() == CHAT_FORMATS["chatml"].hf_chat_template


def test_other_ids_in_tokenizer_json_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = train_spm(tmp_path / "tokenizer.model", model_type="bpe", user_defined_symbols=["foo"])

    (tmp_path / "hf").mkdir()
    write_tokenizer_files(load_tokenizer(model), None, tmp_path / "hf", max_length=64)

    assert capsys.readouterr().err == (
        "warning: tokenizer.json and tokenizer.model, with which the model was trained, give different ids for "
        "'foo', 'a foo b'\n"
    )


def test_source_tokenizer_appends_the_wrappers_tokens_first(spm_model: Path) -> None:
    tokenizer = source_tokenizer(spm_model.parent, CHATML, new_tokens=True)

    assert tokenizer is not None
    names = [tokenizer.id_to_token(i) for i in range(tokenizer.vocab_size - 7, tokenizer.vocab_size)]
    assert names == ["<CLS>", "<SEP>", "<EOD>", "<MASK>", "<PAD>", "<|im_start|>", "<|im_end|>"]


def test_source_tokenizer_leaves_them_out_on_request(spm_model: Path) -> None:
    plain = source_tokenizer(spm_model.parent, (), new_tokens=True)
    tokenizer = source_tokenizer(spm_model.parent, CHATML, new_tokens=False)

    assert plain is not None
    assert tokenizer is not None
    assert tokenizer.vocab_size == plain.vocab_size + 2
    assert chat_format_of(plain, spm_model.parent) is None
    assert chat_format_of(tokenizer, spm_model.parent) is CHAT_FORMATS["chatml"]


def test_source_tokenizer_keeps_the_tokens_of_an_exported_folder(spm_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(spm_model, CHATML)
    write_tokenizer_files(tokenizer, None, tmp_path, max_length=64)

    again = source_tokenizer(tmp_path, (), new_tokens=True)

    assert again is not None
    assert again.fingerprint == tokenizer.fingerprint
    assert again.special_tokens == tokenizer.special_tokens


def test_source_tokenizer_keeps_added_tokens_json(spm_model: Path, tmp_path: Path) -> None:
    shutil.copyfile(spm_model, tmp_path / "tokenizer.model")
    (tmp_path / "added_tokens.json").write_text('{"<end_of_turn>": 401, "[PAD]": 400, "<s>": 1}')

    tokenizer = source_tokenizer(tmp_path, CHATML, new_tokens=False)

    assert tokenizer is not None
    assert tokenizer.tokens[400:] == ["[PAD]", "<end_of_turn>", "<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"<end_of_turn>": 405}', r"<end_of_turn> gets id 400 instead of 405; name a token for every id after"),
        ('["<end_of_turn>"]', "not a table of tokens and ids"),
    ],
)
def test_source_tokenizer_names_an_added_tokens_json_it_cannot_keep(
    spm_model: Path, tmp_path: Path, text: str, message: str
) -> None:
    shutil.copyfile(spm_model, tmp_path / "tokenizer.model")
    (tmp_path / "added_tokens.json").write_text(text)

    with pytest.raises(ConvertError, match=rf"added_tokens\.json: {message}"):
        source_tokenizer(tmp_path, (), new_tokens=True)


def test_source_tokenizer_needs_a_file_to_add_tokens_to(tmp_path: Path) -> None:
    assert source_tokenizer(tmp_path, (), new_tokens=True) is None
    with pytest.raises(ConvertError, match=r"no tokenizer\.model or tokenizer\.json to add tokens to"):
        source_tokenizer(tmp_path, CHATML, new_tokens=True)


def test_source_tokenizer_names_a_damaged_json(spm_model: Path, tmp_path: Path) -> None:
    shutil.copyfile(spm_model, tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": "x"}]}))

    with pytest.raises(ConvertError, match=r"tokenizer\.json: not a tokenizer\.json"):
        source_tokenizer(tmp_path, (), new_tokens=True)


def test_chat_format_is_recognised_by_its_template(json_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(json_tokenizer, CHAT_FORMATS["oasst"].special_tokens)
    write_tokenizer_files(tokenizer, CHAT_FORMATS["oasst"], tmp_path, max_length=64)

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
