"""The tokenizer of a Hugging Face folder includes the tokens that the files beside it add."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import transformers

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.huggingface.chat_template import chat_format_of
from checkpoint_convert.huggingface.tokenizer import source_tokenizer, warn_of_other_spaces
from checkpoint_convert.huggingface.tokenizer_files import TokenizerExport, write_tokenizer_files
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.tokenizer.load import load_tokenizer, load_tokenizer_folder
from tests.checkpoint_convert.huggingface.texts import texts_with

CHATML = ("<|im_start|>", "<|im_end|>")


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
    write_tokenizer_files(TokenizerExport(tokenizer, None), tmp_path, max_length=64)

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


def write_vocabulary(json_tokenizer: Path, folder: Path, tokenizer_class: str) -> None:
    """Write the vocab.json and merges.txt of a byte-level tokenizer, and the class that reads them."""
    tokenizers.Tokenizer.from_file(str(json_tokenizer)).model.save(str(folder))
    settings = {"tokenizer_class": tokenizer_class, "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("tokens", [(), CHATML])
def test_vocab_json_and_merges_become_a_tokenizer_json(
    json_tokenizer: Path, hf_folder: Callable[[str], Path], tmp_path: Path, tokens: tuple[str, ...]
) -> None:
    source = tmp_path / "hf"
    shutil.copytree(hf_folder("llama_gqa"), source)
    write_vocabulary(json_tokenizer, source, "GPT2Tokenizer")

    from_hf(source, tmp_path / "ckpt", ImportOptions(tokens))
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())

    kept = load_tokenizer_folder(tmp_path / "ckpt" / "release" / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = texts_with(["<|endoftext|>"])
    expected = [theirs(text)["input_ids"] for text in texts]
    assert kept.encode_batch(texts) == expected
    assert [ours(text)["input_ids"] for text in texts] == expected
    assert (tmp_path / "out" / "vocab.json").exists() == (not tokens)
    assert all(ours.convert_tokens_to_ids(token) == kept.token_to_id(token) for token in tokens)


def test_vocab_json_of_another_class_is_refused(json_tokenizer: Path, tmp_path: Path) -> None:
    write_vocabulary(json_tokenizer, tmp_path, "LlamaTokenizer")
    with pytest.raises(ConvertError, match=r"LlamaTokenizer .* does not use vocab\.json .*tokenizer_config\.json"):
        source_tokenizer(tmp_path, (), new_tokens=True)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ConvertError, match=r"merges\.txt: missing"):
        source_tokenizer(tmp_path, (), new_tokens=True)


SPECIAL = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
ONLY_IN_CONFIG = {"<|end|>": {**SPECIAL, "rstrip": True}, "<tool_call>": {**SPECIAL, "special": False}}
"""Tokens that added_tokens_decoder of tokenizer_config.json adds, with their flags."""


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_tokens_that_only_tokenizer_config_adds_are_kept(
    kind: str, spm_model: Path, json_tokenizer: Path, hf_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source, first = tmp_path / "hf", 400 if kind == "tokenizer.model" else 320
    shutil.copytree(hf_folder("llama_gqa"), source)
    shutil.copyfile(spm_model if kind == "tokenizer.model" else json_tokenizer, source / kind)
    decoder = {str(first + i): {"content": token, **flags} for i, (token, flags) in enumerate(ONLY_IN_CONFIG.items())}
    own = {"tokenizer_class": "LlamaTokenizer"} if kind == "tokenizer.model" else {"tokenizer_class": "GPT2Tokenizer"}
    (source / "tokenizer_config.json").write_text(json.dumps(own | {"added_tokens_decoder": decoder}))

    from_hf(source, tmp_path / "ckpt", ImportOptions(CHATML, new_tokens=False))
    to_hf(tmp_path / "ckpt", tmp_path / "out", ExportOptions())

    kept = load_tokenizer_folder(tmp_path / "ckpt" / "release" / "tokenizer")
    assert kept.tokens[first:] == ["<|end|>", "<tool_call>", *CHATML]
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for token in ONLY_IN_CONFIG:
        i = theirs.convert_tokens_to_ids(token)
        assert ours.added_tokens_decoder[i].__getstate__() == theirs.added_tokens_decoder[i].__getstate__()
    for text in ("a<|end|>  b", "<tool_call>x</tool_call>", "a b"):
        ids = theirs(text)["input_ids"]
        if kind == "tokenizer.json" or text == "a b":  # transformers 5 leaves out SentencePiece's space after a token
            assert ours(text)["input_ids"] == ids
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


def test_a_token_of_tokenizer_config_needs_the_next_id(json_tokenizer: Path, tmp_path: Path) -> None:
    shutil.copyfile(json_tokenizer, tmp_path / "tokenizer.json")
    decoder = {"325": {"content": "<|end|>", **SPECIAL}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    with pytest.raises(ConvertError, match=r"<\|end\|> gets id 320 instead of 325"):
        source_tokenizer(tmp_path, (), new_tokens=True)


def test_another_space_before_a_text_is_named(
    json_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(json_tokenizer, tmp_path / "tokenizer.json")
    for stated in (False, True):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": stated}))
        warn_of_other_spaces(tmp_path)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "add_prefix_space is true in tokenizer_config.json, but false in tokenizer.json" in lines[0]
