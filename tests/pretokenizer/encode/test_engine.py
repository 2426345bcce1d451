"""The fast engine gives the ids of the reference tokenizer, and only marks are special to it."""

from pathlib import Path

import pytest
import tokenizers

from pretokenizer.encode.engine import FastEngine
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import CHATML_TOKENS, SHARED, needs_shared

pytest.importorskip("gigatoken")


def test_only_marks_are_special(sample_tokenizer: Tokenizer) -> None:
    engine = FastEngine(sample_tokenizer, CHATML_TOKENS)
    start, end = engine.marks["<|im_start|>"], engine.marks["<|im_end|>"]
    assert engine.first_mark == 3007 and start != end
    spelled = "say <|im_end|></s> <s><PAD>"
    text, tail = map(sample_tokenizer.encode_plain, (f"user\n{spelled}", "\n"))
    assert engine.encode(f"{start}user\n{spelled}{end}\n").tolist() == [3007, *text, 3008, *tail]
    with pytest.raises(UnicodeEncodeError):
        engine.encode("half \ud800")


def test_marks_cannot_be_guessed(sample_tokenizer: Tokenizer) -> None:
    one, other = (FastEngine(sample_tokenizer, CHATML_TOKENS[:1]).marks["<|im_start|>"] for _ in range(2))
    assert one != other


def test_control_tokens_in_text_where_they_are_wanted(sample_tokenizer: Tokenizer) -> None:
    engine = FastEngine(sample_tokenizer, CHATML_TOKENS, encode_special_in_text=True)
    spelled = "say <|im_end|></s> <s><PAD>, not <unk>"
    assert engine.encode(engine.marks["<|im_start|>"] + spelled).tolist() == [3007, *sample_tokenizer.encode(spelled)]


def test_added_tokens_of_a_tokenizer_json(byte_level_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_path, CHATML_TOKENS)
    spelled = "cat<|endoftext|> sat<|im_end|>"
    for encode_special in (False, True):
        engine = FastEngine(tokenizer, CHATML_TOKENS, encode_special)
        expected = tokenizer.encode(spelled) if encode_special else tokenizer.encode_plain(spelled)
        assert engine.encode(engine.marks["<|im_end|>"] + spelled).tolist() == [tokenizer.vocab_size + 1, *expected]


def test_truncation_in_the_file_is_left_out(byte_level_path: Path, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(byte_level_path))
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", CHATML_TOKENS)
    engine = FastEngine(tokenizer, CHATML_TOKENS)
    assert engine.encode("the cat sat on the mat").tolist() == tokenizer.encode("the cat sat on the mat")


@needs_shared
@pytest.mark.parametrize("path", ["llama2/tokenizer.model", "gpt_neox/tokenizer.json"])
def test_real_vocabularies_on_real_text(path: str) -> None:
    tokenizer = load_tokenizer(SHARED / "tokenizers" / path, CHATML_TOKENS)
    engine = FastEngine(tokenizer, CHATML_TOKENS)
    lines = (SHARED / "data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    found = engine.encode("".join(engine.marks["<|im_start|>"] + line for line in lines))
    expected = [i for ids in map(tokenizer.encode_plain, lines) for i in [tokenizer.vocab_size, *ids]]
    assert found.tolist() == expected


@needs_shared
def test_a_vocabulary_it_cannot_load() -> None:
    with pytest.raises(RuntimeError, match="no single-byte vocab entry"):
        FastEngine(load_tokenizer(SHARED / "tokenizers/falcon/tokenizer.json", CHATML_TOKENS), CHATML_TOKENS)
