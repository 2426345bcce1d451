"""engine.py"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretokenizer.engine import BATTERY, REFERENCE_ENV, FastEngine, first_difference, make_engine
from pretokenizer.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from tests.pretokenizer.conftest import CHATML_TOKENS, SHARED, needs_shared

FRAMES = [("<|im_start|>user\n", "<|im_end|>\n")]


def test_the_engine_is_proved_on_the_battery(sample_tokenizer: Tokenizer) -> None:
    pytest.importorskip("gigatoken")
    engine, line = make_engine(sample_tokenizer, FRAMES)
    assert engine is not None and "proved against sentencepiece" in line
    assert first_difference(engine, list(BATTERY)) is None
    flat, offsets = engine.encode(["a", "", "b c"])
    assert offsets.tolist()[-1] == flat.size
    assert flat.tolist() == [*sample_tokenizer.encode("a"), *sample_tokenizer.encode("b c")]
    with pytest.raises(UnicodeEncodeError):
        engine.encode_joined(["half \ud800"])


def test_a_wrong_engine_is_not_used(sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gigatoken")
    right = FastEngine.encode

    def wrong_for_emoji(self: FastEngine, documents: list[str]) -> Any:
        flat, offsets = right(self, documents)
        flat = flat.copy()
        for index, document in enumerate(documents):
            if "😀" in document:
                flat[offsets[index] + 3] += 1
        return flat, offsets

    monkeypatch.setattr(FastEngine, "encode", wrong_for_emoji)
    engine, line = make_engine(sample_tokenizer, FRAMES)
    assert engine is None and line.startswith("sentencepiece (the reference; gigatoken gives other ids for ")


def test_without_the_engine(sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REFERENCE_ENV, "reference")
    assert make_engine(sample_tokenizer, FRAMES)[0] is None
    monkeypatch.delenv(REFERENCE_ENV)
    monkeypatch.setitem(__import__("sys").modules, "gigatoken", None)
    engine, line = make_engine(sample_tokenizer, FRAMES)
    assert engine is None and "pip install 'oasst-megatron[fast]'" in line


def test_a_vocabulary_it_cannot_load(
    sentencepiece_tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    from pretokenizer import sentencepiece_json

    def refuse(data: bytes) -> bool:
        raise sentencepiece_json.UnsupportedModelError("the model normalises characters")

    monkeypatch.setattr(sentencepiece_json, "has_dummy_prefix", refuse)
    engine, line = make_engine(sentencepiece_tokenizer, FRAMES)
    assert engine is None and "gigatoken cannot load this vocabulary: the model normalises characters" in line


@needs_shared
@pytest.mark.parametrize("path", ["llama2/tokenizer.model", "gpt_neox/tokenizer.json", "falcon/tokenizer.json"])
def test_real_vocabularies_on_real_text(path: str) -> None:
    pytest.importorskip("gigatoken")
    tokenizer = load_tokenizer(SHARED / "tokenizers" / Path(path), CHATML_TOKENS)
    engine, line = make_engine(tokenizer, FRAMES)
    if engine is None:
        assert path.startswith("falcon") and "no single-byte vocab entry" in line
        return
    lines = (SHARED / "data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    flat = engine.encode_joined(["<|im_start|>" + line for line in lines])
    expected = [i for line in lines for i in tokenizer.encode("<|im_start|>" + line)]
    assert np.array_equal(flat, np.array(expected))
