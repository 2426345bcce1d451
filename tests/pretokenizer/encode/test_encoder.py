"""The encoder chooses the fast engine or the reference, reports the reason, and gives the same ids either way."""

from pathlib import Path

import pytest

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.encode import fast as framed_pass
from pretokenizer.encode.batch import EngineMismatchError
from pretokenizer.encode.encoder import REFERENCE_ENV, Encoder, make_encoder
from pretokenizer.encode.fast import FramedPass
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.tokenizer import sentencepiece_json
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import CHATML_TOKENS, SHARED, needs_shared

CHATML = CHAT_FORMATS["chatml"]
TALKS = [Conversation(pair("What is <|im_end|>?", "A mark.")), Conversation(pair("▁ é", "  b"))]


def test_the_fast_engine_where_it_is_right(sample_tokenizer: Tokenizer) -> None:
    pytest.importorskip("gigatoken")
    encoder, line = make_encoder(sample_tokenizer, CHATML)
    assert isinstance(encoder.way, FramedPass)
    assert line.startswith("gigatoken ") and line.endswith(", proved against sentencepiece")


def test_all_ways_give_the_same(sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    exact_pass = ReferencePass(sample_tokenizer, CHATML)
    reference = Encoder(exact_pass, exact_pass, keep_texts=True).encode(TALKS)
    assert reference.texts == [
        "<|im_start|>user\nWhat is <|im_end|>?<|im_end|>\n<|im_start|>assistant\nA mark.<|im_end|>\n",
        "<|im_start|>user\n▁ é<|im_end|>\n<|im_start|>assistant\n  b<|im_end|>\n",
    ]
    fast, _ = make_encoder(sample_tokenizer, CHATML, keep_texts=True)
    monkeypatch.setenv(REFERENCE_ENV, "reference")
    exact, line = make_encoder(sample_tokenizer, CHATML, keep_texts=True)
    assert isinstance(exact.way, ReferencePass)
    assert line == "sentencepiece (the reference; PRETOKENIZER_ENGINE=reference)"
    for encoder in (fast, exact):
        batch = encoder.encode(TALKS)
        assert batch.texts == reference.texts
        assert [c.tolist() for c in batch[:6]] == [c.tolist() for c in reference[:6]]


def test_the_reason_for_no_fast_pass_is_reported(sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gigatoken")

    def wrong(*_: object) -> None:
        raise EngineMismatchError("emoji")

    def refused(*_: object, **__: object) -> None:
        raise sentencepiece_json.UnsupportedModelError("the model normalises characters")

    with monkeypatch.context() as patch:
        patch.setattr(framed_pass.FramedPass, "_prove_on_battery", wrong)
        encoder, line = make_encoder(sample_tokenizer, CHATML)
        assert "(the reference; gigatoken gives other ids for 'emoji')" in line
        assert encoder.warnings == ["gigatoken gives other ids for 'emoji'; sentencepiece encoded everything"]
    with monkeypatch.context() as patch:
        patch.setattr(sentencepiece_json, "describe", refused)
        line = make_encoder(sample_tokenizer, CHATML)[1]
        assert "(the reference; gigatoken cannot load this vocabulary: the model normalises characters)" in line
    monkeypatch.setitem(__import__("sys").modules, "gigatoken", None)
    assert "(the reference; gigatoken is not installed)" in make_encoder(sample_tokenizer, CHATML)[1]


def test_control_tokens_in_text_are_encoded_exactly_without_the_engine(
    byte_level_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REFERENCE_ENV, "reference")
    encoder, line = make_encoder(load_tokenizer(byte_level_path, CHATML_TOKENS), CHATML, encode_special_in_text=True)
    assert isinstance(encoder.way, ReferencePass)
    assert line == "tokenizers (the reference; PRETOKENIZER_ENGINE=reference)"


def test_nothing_to_encode(sample_tokenizer: Tokenizer) -> None:
    batch = make_encoder(sample_tokenizer, CHATML)[0].encode([])
    assert [column.tolist() for column in batch[:6]] == [[], [], [], [], [], []]


@needs_shared
def test_falcon_takes_the_exact_tokenizer() -> None:
    pytest.importorskip("gigatoken")
    encoder, line = make_encoder(load_tokenizer(SHARED / "tokenizers/falcon/tokenizer.json", CHATML_TOKENS), CHATML)
    assert not isinstance(encoder.way, FramedPass) and "no single-byte vocab entry" in line
