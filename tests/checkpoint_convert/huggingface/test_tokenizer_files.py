"""transformers reads the tokenizer files of exported folders as intended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import transformers

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.huggingface.generation import write_generation_config
from checkpoint_convert.huggingface.source_files import keep_source
from checkpoint_convert.huggingface.tokenizer_files import (
    TokenizerExport,
    checkpoint_tokenizer,
    write_templates,
    write_tokenizer_files,
)
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.verify.chat import check_chat
from pretokenizer.chat.conversation import Conversation, Message
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.chat.roles import Role
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.checkpoint_convert.huggingface.test_source_files import LLAMA, SETTINGS, flags_of
from tests.checkpoint_convert.huggingface.texts import texts_with
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


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"no bos"}))
def test_new_tokens_change_nothing_else(llama_with_tokenizer: Path, tmp_path: Path, name: str) -> None:
    """Ids of plain text, special tokens, flags and templates stay those of the source. EOS becomes the end of turn."""
    settings = SETTINGS[name]
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(LLAMA | settings))
    added = {token["content"]: int(i) for i, token in settings.get("added_tokens_decoder", {}).items()}
    (llama_with_tokenizer / "added_tokens.json").write_text(json.dumps(added))

    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())

    theirs = transformers.AutoTokenizer.from_pretrained(llama_with_tokenizer)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in texts_with(()):
        if text.startswith((" ", "▁")):  # transformers 5 omits SentencePiece's space piece here
            continue
        ids = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == ids, repr(text)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    own, kept = theirs.special_tokens_map, ours.special_tokens_map
    end_of_turn = "</s>" if name == "templates" else "<|im_end|>"
    assert kept["eos_token"] == end_of_turn
    assert {key: kept[key] for key in own if key != "eos_token"} == {key: own[key] for key in own if key != "eos_token"}
    flags = flags_of(ours)
    assert {i: flags[i] for i in flags_of(theirs)} == flags_of(theirs)
    if name == "templates":
        assert ours.chat_template == theirs.chat_template
    else:
        assert ours.chat_template == CHAT_FORMATS["chatml"].hf_chat_template
    outcome = check_chat(tmp_path / "out", tmp_path / "ckpt" / "release")
    assert outcome is not None and outcome.problem == ""


def test_new_tokens_keep_the_flags_of_a_tokenizer_json(
    json_tokenizer: Path, llama_with_tokenizer: Path, tmp_path: Path
) -> None:
    (llama_with_tokenizer / "tokenizer.model").unlink()
    backend = tokenizers.Tokenizer.from_file(str(json_tokenizer))
    backend.add_tokens([tokenizers.AddedToken("<tool>", rstrip=True, normalized=False)])
    backend.add_special_tokens([tokenizers.AddedToken("<|end|>", lstrip=True, normalized=False)])
    backend.save(str(llama_with_tokenizer / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "unk_token": "<|end|>"}
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(config))

    from_hf(llama_with_tokenizer, tmp_path / "ckpt", ImportOptions(CHATML))
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())

    theirs = transformers.AutoTokenizer.from_pretrained(llama_with_tokenizer)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = texts_with(["<tool>", "<|end|>", "<|endoftext|>"])
    assert [ours(text)["input_ids"] for text in texts] == [theirs(text)["input_ids"] for text in texts]
    flags = flags_of(ours)
    assert {i: flags[i] for i in flags_of(theirs)} == flags_of(theirs)
    assert (ours.eos_token, ours.unk_token) == ("<|im_end|>", "<|end|>")


def test_a_trained_export_adds_no_bos(spm_model: Path, json_tokenizer: Path, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(json_tokenizer))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 0)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    for path in (spm_model, tmp_path / "tokenizer.json"):
        tokenizer = load_tokenizer(path, CHATML)
        tokenizer.save(tmp_path / tokenizer.kind, "chatml", adds_bos=False)
        out = tmp_path / f"{tokenizer.kind}_out"
        out.mkdir()

        write_tokenizer_files(checkpoint_tokenizer(tmp_path / tokenizer.kind), out, max_length=64)
        (out / "config.json").write_text('{"model_type": "llama"}')

        theirs = transformers.AutoTokenizer.from_pretrained(out)
        assert theirs("<|im_start|>user\nHi<|im_end|>\n")["input_ids"] == tokenizer.encode(
            "<|im_start|>user\nHi<|im_end|>\n"
        )
        assert json.loads((out / "tokenizer_config.json").read_text())["add_bos_token"] is False


def test_a_template_whose_name_is_no_file_name_stays_in_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_templates({"default": "a", "tool_use": "b", "../c": "d"}, tmp_path)

    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jinja")) == [
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
    ]
    assert "'../c'" in capsys.readouterr().err


def test_a_trained_export_keeps_the_sources_settings(llama_with_tokenizer: Path, tmp_path: Path) -> None:
    """A trained checkpoint has the shards' tokenizer in tokenizer/ and the source's files in tokenizer/source/."""
    settings = SETTINGS["flags"] | {"add_bos_token": True, "model_max_length": 77, "chat_template": [
        {"name": "default", "template": "D"}, {"name": "tool_use", "template": "TOOL"}]}  # fmt: skip
    (llama_with_tokenizer / "tokenizer_config.json").write_text(json.dumps(LLAMA | settings))
    (llama_with_tokenizer / "added_tokens.json").write_text('{"<tool_call>": 400, "<|end|>": 401}')
    tokens = ("<tool_call>", "<|end|>", *CHATML)
    tokenizer = load_tokenizer(llama_with_tokenizer / "tokenizer.model", tokens, new_tokens=False)
    tokenizer.save(tmp_path / "tokenizer", "chatml", adds_bos=False)
    keep_source(llama_with_tokenizer, CHATML, tmp_path / "tokenizer")
    out = tmp_path / "out"
    out.mkdir()

    write_tokenizer_files(checkpoint_tokenizer(tmp_path / "tokenizer"), out, max_length=64)
    (out / "config.json").write_text('{"model_type": "llama"}')

    theirs = transformers.AutoTokenizer.from_pretrained(out)
    text = "<|im_start|>user\nHi <|end|>  b<|im_end|>\n"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert (theirs.unk_token, theirs.eos_token, theirs.model_max_length) == ("<unk>", "<|im_end|>", 77)
    assert theirs.chat_template == {"default": CHAT_FORMATS["chatml"].hf_chat_template, "tool_use": "TOOL"}
    flags = flags_of(theirs)
    assert (flags[400]["special"], flags[401]["special"], flags[401]["rstrip"]) == (False, True, False)
