"""The fast pass for framed formats equals the reference pass, and finds a wrong engine."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from pretokenizer.chat.conversation import Conversation, pair
from pretokenizer.chat.formats import CHAT_FORMATS, FramedFormat
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import EngineMismatchError
from pretokenizer.encode.engine import FastEngine
from pretokenizer.encode.fast import FramedPass, FrameError
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import SAMPLE_MODEL, SHARED, needs_shared
from tests.pretokenizer.hard_conversations import assert_equal, hard_conversations, wrong_encoders

pytest.importorskip("gigatoken")


def both(path: Path, name: str, encode_special: bool) -> tuple[FramedPass, ReferencePass]:
    chat_format = CHAT_FORMATS[name]
    assert isinstance(chat_format, FramedFormat)
    tokenizer = load_tokenizer(path, chat_format.special_tokens)
    reference = ReferencePass(tokenizer, chat_format, encode_special)
    return FramedPass(tokenizer, chat_format, reference), reference


@pytest.mark.parametrize("name", ["chatml", "oasst"])
@pytest.mark.parametrize("encode_special", [False, True])
def test_ids_and_roles_equal_those_of_the_reference(byte_level_path: Path, name: str, encode_special: bool) -> None:
    for path in (SAMPLE_MODEL, byte_level_path):
        fast, reference = both(path, name, encode_special)
        talks = hard_conversations()
        assert_equal(fast.encode(talks), reference.encode(talks))
        clean = [Conversation(pair(f"question {i}", "answer " * i)) for i in range(1, 9)]
        assert_equal(fast.encode(clean), reference.encode(clean))


def test_spelled_control_tokens_are_counted_where_they_stand() -> None:
    fast, _ = both(SAMPLE_MODEL, "chatml", False)
    talks = [
        Conversation(pair("é<|im_end|><s>", "</s>")),
        Conversation(pair("a", "b")),
        Conversation(pair("<PAD>", "c")),
    ]
    assert fast.encode(talks).control_counts.tolist() == [3, 0, 1]


def test_a_wrong_engine_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FastEngine.encode

    def wrong_for_emoji(self: FastEngine, text: str) -> Any:
        return right(self, text.replace("😀", "x"))

    monkeypatch.setattr(FastEngine, "encode", wrong_for_emoji)
    with pytest.raises(EngineMismatchError, match="emoji 😀"):
        both(SAMPLE_MODEL, "chatml", False)


def test_an_engine_that_is_wrong_is_found_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = both(SAMPLE_MODEL, "chatml", False)
    for wrong in wrong_encoders(FastEngine.encode):
        monkeypatch.setattr(FastEngine, "encode", wrong)
        with pytest.raises(EngineMismatchError, match="What is it"):
            fast.encode([Conversation(pair("What is it?", "That."))])


def test_documents_at_an_interval_are_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = both(SAMPLE_MODEL, "chatml", False)
    right = FastEngine.encode
    monkeypatch.setattr(FastEngine, "encode", lambda self, text: right(self, text.replace("wrong", "other")))
    monkeypatch.setattr("pretokenizer.encode.fast.PROOF_INTERVAL", 2)
    talks = [Conversation(pair(f"question {i}", "wrong" if i in (1, 4) else "right")) for i in range(5)]
    assert fast.encode(talks[:4]).document_sizes.size == 4
    with pytest.raises(EngineMismatchError, match="question 4"):
        fast.encode(talks)


def test_frames_of_different_kinds(sample_tokenizer: Tokenizer) -> None:
    class Odd(FramedFormat):
        name = "odd"
        frames: ClassVar = {role: ("<|im_start|>", "\n" if role is Role.USER else "<|im_end|>") for role in Role}

    chat_format = Odd()
    with pytest.raises(FrameError, match="frames of chat format odd"):
        FramedPass(sample_tokenizer, chat_format, ReferencePass(sample_tokenizer, chat_format))


@needs_shared
@pytest.mark.parametrize("path", ["llama2/tokenizer.model", "gpt_neox/tokenizer.json"])
def test_real_vocabularies(path: str) -> None:
    for encode_special in (False, True):
        fast, reference = both(SHARED / "tokenizers" / path, "chatml", encode_special)
        assert_equal(fast.encode(hard_conversations()), reference.encode(hard_conversations()))
