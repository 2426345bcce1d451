"""Every tokenizer has a fingerprint and can be saved to a folder and loaded from it."""

import json
from pathlib import Path

import pytest

from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer, load_tokenizer_folder
from tests.pretokenizer.conftest import CHATML_TOKENS, SAMPLE_MODEL


def test_fingerprint_is_the_hash_of_the_table(sample_tokenizer: Tokenizer) -> None:
    again = load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS)
    assert again.fingerprint == sample_tokenizer.fingerprint
    assert load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS[::-1]).fingerprint != sample_tokenizer.fingerprint
    assert len(again.fingerprint) == 64


@pytest.mark.parametrize("kind", ["sentencepiece", "tokenizers"])
def test_folder_gives_the_tokenizer_back(kind: str, byte_level_path: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(SAMPLE_MODEL if kind == "sentencepiece" else byte_level_path, CHATML_TOKENS)
    tokenizer.save(tmp_path, "chatml")
    again = load_tokenizer_folder(tmp_path)
    assert (again.kind, again.fingerprint, again.special_tokens) == (
        kind,
        tokenizer.fingerprint,
        tokenizer.special_tokens,
    )
    assert again.encode("<|im_start|>the cat") == tokenizer.encode("<|im_start|>the cat")
    assert json.loads((tmp_path / "tokenizer_spec.json").read_text())["chat_format"] == "chatml"
