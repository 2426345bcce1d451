"""The fast pass for any chat format equals the reference pass, and finds a wrong engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.formats import CHAT_FORMATS, ChatFormat
from pretokenizer.chat.jinja_format import TemplateFormat, TemplateOptions
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import EngineMismatchError
from pretokenizer.encode.engine import FastEngine
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.encode.rendered_pass import RenderedPass
from pretokenizer.encode.token_bytes import token_bytes
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import CHATML_TOKENS, SAMPLE_MODEL, SHARED, needs_shared
from tests.pretokenizer.hard_conversations import assert_equal, hard_conversations, wrong_encoders

pytest.importorskip("gigatoken")

TEXT_FIRST = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ eos_token }}"
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}{% endfor %}"
)


def formats(tokenizer: Tokenizer) -> dict[str, ChatFormat]:
    return {
        "reply": CHAT_FORMATS["chatml"].with_options("reply", "full"),
        "text first": TemplateFormat(TEXT_FIRST, "t.jinja", tokenizer),
        "marks": TemplateFormat(MARKED, "t.jinja", tokenizer),
        "marks as replies": TemplateFormat(MARKED, "t.jinja", tokenizer, TemplateOptions(loss="reply")),
    }


@pytest.mark.parametrize("name", ["reply", "text first", "marks", "marks as replies"])
@pytest.mark.parametrize("encode_special", [False, True])
def test_ids_and_roles_equal_those_of_the_reference(byte_level_path: Path, name: str, encode_special: bool) -> None:
    for path in (SAMPLE_MODEL, byte_level_path):
        tokenizer = load_tokenizer(path, CHATML_TOKENS)
        chat_format = formats(tokenizer)[name]
        reference = ReferencePass(tokenizer, chat_format, encode_special)
        fast = RenderedPass(tokenizer, chat_format, reference)
        talks = [*hard_conversations(), Conversation((Message(Role.ASSISTANT, "plain <|im_end|>"),), is_plain=True)]
        assert_equal(fast.encode(talks), reference.encode(talks))
        assert_equal(fast.encode(talks[:1]), reference.encode(talks[:1]))


SPACED = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '<|endoftext|>' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_tokens_that_straddle_the_border_of_a_reply_are_counted(byte_level_path: Path) -> None:
    """The prompt ends with a space, and the token ` the` is part of the prompt and of the reply `the cat sat`."""
    tokenizer = load_tokenizer(byte_level_path)
    talks = [Conversation(pair("the dog", "the cat sat")), Conversation(pair("the dog", "\nsat"))]
    talks += [Conversation((*talks[0].messages, *talks[0].messages))]
    for loss, counts in (("reply", [1, 0, 2]), ("turn", [0, 0, 0])):
        chat_format = TemplateFormat(SPACED, "t.jinja", tokenizer, TemplateOptions(loss=loss))
        reference = ReferencePass(tokenizer, chat_format)
        for encoder in (reference, RenderedPass(tokenizer, chat_format, reference)):
            batch = encoder.encode(talks)
            assert batch.straddling_counts.tolist() == counts
    unrolled = TemplateFormat(SPACED, "t.jinja", tokenizer, TemplateOptions(history="unroll"))
    reference = ReferencePass(tokenizer, unrolled)
    for encoder in (reference, RenderedPass(tokenizer, unrolled, reference)):
        batch = encoder.encode(talks[:1])
        assert batch.straddling_counts.tolist() == [1]
        loss = np.repeat(batch.turn_roles, batch.turn_sizes) == Role.ASSISTANT
        assert tokenizer.decode(batch.tokens[loss].tolist()) == " cat sat<|endoftext|>"


def test_a_plain_document_is_its_text_and_eos(sample_tokenizer: Tokenizer) -> None:
    reference = ReferencePass(sample_tokenizer, CHAT_FORMATS["chatml"])
    talk = Conversation((Message(Role.ASSISTANT, "the cat"),), is_plain=True)
    batch = reference.encode([talk])
    assert batch.tokens.tolist() == [*sample_tokenizer.encode("the cat"), 2]
    assert batch.turn_roles.tolist() == [2]


def test_documents_whose_bytes_do_not_add_up_go_to_the_reference(
    sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown_for_cat(tokenizer: Tokenizer, marks: Any) -> Any:
        lengths = token_bytes(tokenizer, marks)
        lengths[sample_tokenizer.encode("user\ncat")[-1]] += 5
        return lengths

    monkeypatch.setattr("pretokenizer.encode.rendered_pass.token_bytes", unknown_for_cat)
    chat_format = formats(sample_tokenizer)["reply"]
    reference = ReferencePass(sample_tokenizer, chat_format)
    fast = RenderedPass(sample_tokenizer, chat_format, reference)
    calls: list[int] = []
    right = reference.encode_rendered
    monkeypatch.setattr(
        reference, "encode_rendered", lambda documents: calls.append(len(documents)) or right(documents)
    )
    talks = [Conversation(pair("a", "b")), Conversation(pair("cat", "b <|im_end|>")), Conversation(pair("c", "d"))]
    found = fast.encode(talks)
    assert calls == [1, 1]  # the second document; then the first, for the check of a sample
    assert_equal(found, ReferencePass(sample_tokenizer, chat_format).encode(talks))


def test_a_control_token_that_crosses_a_border_stays_text(sample_tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{{ '<|im_' + m.content }}</s>{% endfor %}"
    chat_format = TemplateFormat(source, "t.jinja", sample_tokenizer)
    reference = ReferencePass(sample_tokenizer, chat_format)
    talks = [Conversation(pair("end|>", "x"))]
    found = RenderedPass(sample_tokenizer, chat_format, reference).encode(talks)
    assert_equal(found, reference.encode(talks))
    assert sample_tokenizer.token_to_id("<|im_end|>") not in found.tokens


def test_a_wrong_engine_is_found(sample_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    chat_format = formats(sample_tokenizer)["reply"]
    reference = ReferencePass(sample_tokenizer, chat_format)
    fast = RenderedPass(sample_tokenizer, chat_format, reference)
    for wrong in wrong_encoders(FastEngine.encode_bytes):
        monkeypatch.setattr(FastEngine, "encode_bytes", wrong)
        with pytest.raises(EngineMismatchError, match="What is it"):
            fast.encode([Conversation(pair("What is it?", "That."))])
        with pytest.raises(EngineMismatchError):
            RenderedPass(sample_tokenizer, chat_format, reference)


@needs_shared
def test_gpt_neox_joins_the_line_feeds_of_the_header_and_of_the_reply() -> None:
    tokenizer = load_tokenizer(SHARED / "tokenizers/gpt_neox/tokenizer.json", CHATML_TOKENS)
    chat_format = CHAT_FORMATS["chatml"].with_options("reply", "full")
    reference = ReferencePass(tokenizer, chat_format)
    for encoder in (reference, RenderedPass(tokenizer, chat_format, reference)):
        batch = encoder.encode([Conversation(pair("Hi", "\n\nYes"))])
        loss = np.repeat(batch.turn_roles, batch.turn_sizes) == Role.ASSISTANT
        assert batch.straddling_counts.tolist() == [1]
        assert tokenizer.decode(batch.tokens[loss].tolist()) == "\nYes<|im_end|>\n"


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("path", ["llama2/tokenizer.model", "gpt_neox/tokenizer.json"])
def test_real_vocabularies(path: str) -> None:
    tokenizer = load_tokenizer(SHARED / "tokenizers" / path, CHATML_TOKENS)
    for chat_format in (*formats(tokenizer).values(), CHAT_FORMATS["llama2"]):
        reference = ReferencePass(tokenizer, chat_format)
        fast = RenderedPass(tokenizer, chat_format, reference)
        assert_equal(fast.encode(hard_conversations()), reference.encode(hard_conversations()))


def test_lengths_of_tokens(byte_level_path: Path, sample_tokenizer: Tokenizer) -> None:
    for tokenizer in (load_tokenizer(byte_level_path, CHATML_TOKENS), sample_tokenizer):
        lengths = token_bytes(tokenizer, {"mark": tokenizer.vocab_size})
        text = "<|im_end|>the cat é 漢 🎉 sat\n"
        ids = tokenizer.encode(text)
        prefix = 1 if tokenizer is sample_tokenizer else 0
        assert int(lengths[ids].sum()) == len(text.encode()) + prefix
        assert lengths[tokenizer.vocab_size] == 4 and lengths.dtype == np.int64
