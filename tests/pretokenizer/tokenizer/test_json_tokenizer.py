"""Tokenizers from a tokenizer.json give the ids of the `tokenizers` library."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers

from pretokenizer.tokenizer.base import Tokenizer, TokenizerError
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import CHATML_TOKENS


def test_added_tokens_and_ids_of_a_byte_level_vocabulary(byte_level_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_path, CHATML_TOKENS)
    size = tokenizers.Tokenizer.from_file(str(byte_level_path)).get_vocab_size()
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.special_tokens == {"<|im_start|>": size, "<|im_end|>": size + 1}
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    text = "<|im_start|>the cat<|im_end|>\n é<|endoftext|>"
    reference = tokenizers.Tokenizer.from_file(str(byte_level_path))
    expected = [size, *reference.encode("the cat").ids, size + 1, *reference.encode("\n é").ids, 0]
    assert tokenizer.encode(text) == expected and tokenizer.encode_batch([text]) == [expected]
    assert tokenizer.decode(expected) == text
    plain = tokenizer.encode_plain(text)
    assert not {0, size, size + 1} & set(plain) and tokenizer.decode(plain) == text


def test_own_tokens_come_from_the_config_beside_the_file(byte_level_path: Path, tmp_path: Path) -> None:
    shutil.copy(byte_level_path, tmp_path)
    config = {"eos_token": {"content": "<|padding|>"}, "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)


def test_a_very_large_id_is_refused(byte_level_path: Path, tmp_path: Path) -> None:
    described = json.loads(byte_level_path.read_text())
    described["model"]["vocab"]["a"] = 4_000_000_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: has a token of id 4,000,000,000"):
        load_tokenizer(tmp_path / "tokenizer.json")


def aligned(tokenizer: Tokenizer, text: str, plain: list[tuple[int, int]]) -> list[tuple[str | None, str]]:
    """Return (token, the characters that it covers) of each token."""
    found = tokenizer.align(text, plain)
    rows = zip(found.ids, found.begins, found.ends, strict=True)
    return [(tokenizer.id_to_token(token_id), text[begin:end]) for token_id, begin, end in rows]


def test_tokens_and_their_characters(byte_level_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_path, CHATML_TOKENS)
    text = "<|im_start|>the é<|im_end|> <|im_end|>"
    assert aligned(tokenizer, text, []) == [
        ("<|im_start|>", "<|im_start|>"),
        ("the", "the"),
        ("Ġ", " "),
        ("Ã", "é"),
        ("©", "é"),
        ("<|im_end|>", "<|im_end|>"),
        ("Ġ", " "),
        ("<|im_end|>", "<|im_end|>"),
    ]
    typed = aligned(tokenizer, text, [(12, 28)])  # the first <|im_end|> and the space belong to a message
    assert [token for token, _ in typed if token and token.startswith("<|")] == ["<|im_start|>", "<|im_end|>"]
    assert "".join(dict.fromkeys(piece for _, piece in typed[:4])) == "<|im_start|>the é"
    assert typed[-1] == ("<|im_end|>", "<|im_end|>") and tokenizer.decode(tokenizer.align(text, [(12, 28)]).ids) == text


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_flags_of_control_tokens_decide_the_ids(byte_level_path: Path, tmp_path: Path, flag: str) -> None:
    backend = tokenizers.Tokenizer.from_file(str(byte_level_path))
    flags = {"normalized": False, flag: True}
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, **flags) for token in CHATML_TOKENS])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", CHATML_TOKENS)
    text = "<|im_start|> the \n<|im_end|>\n <|im_start|>cat<|im_end|>"
    assert tokenizer.align(text).ids == backend.encode(text, add_special_tokens=False).ids
    spelled = f"{text} <|im_end|> sat"
    found = tokenizer.align(spelled, [(len(text), len(spelled))])
    assert found.ids[: len(tokenizer.align(text).ids)] == tokenizer.align(text).ids
    own = {tokenizer.token_to_id(token) for token in CHATML_TOKENS}
    assert not own & set(found.ids[len(tokenizer.align(text).ids) :])
