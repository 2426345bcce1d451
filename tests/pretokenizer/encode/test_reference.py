"""The reference pass gives literal ids and roles, and keeps control tokens in messages as text."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers

from pretokenizer.chat.conversation import Conversation, Message, pair
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.chat.roles import Role
from pretokenizer.encode.batch import EncodedBatch
from pretokenizer.encode.reference import ReferencePass
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.json_tokenizer import JsonTokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import SAMPLE_MODEL, SHARED, needs_shared

CHATML = CHAT_FORMATS["chatml"]


def documents(batch: EncodedBatch) -> list[tuple[list[int], list[int]]]:
    """Return (ids, roles) of each document."""
    roles = np.repeat(batch.turn_roles, batch.turn_sizes)
    ends = np.cumsum(batch.document_sizes).tolist()
    bounds = itertools.pairwise([0, *ends])
    return [(batch.tokens[a:b].tolist(), roles[a:b].tolist()) for a, b in bounds]


def test_ids_and_roles_of_a_document(sample_tokenizer: Tokenizer) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLE_MODEL))
    question, context, answer = (reference.encode(t) for t in ("user\nq 1?", "context\nc", "assistant\na!"))
    tail = reference.encode("\n")
    conversation = Conversation((*pair("q 1?", "a!")[:1], Message(Role.CONTEXT, "c"), *pair("q 1?", "a!")[1:]))
    batch = ReferencePass(sample_tokenizer, CHATML).encode([conversation])
    ids, roles = documents(batch)[0]
    assert ids == [3005, *question, 3006, *tail, 3005, *context, 3006, *tail, 3005, *answer, 3006, *tail]
    assert roles == [1] * (len(question) + 4) + [3] * (len(context) + 4) + [2] * (len(answer) + 4)
    assert tail == [reference.piece_to_id("▁"), 13]


def test_a_spelled_eos_of_a_tokenizer_json(byte_level_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_path, CHATML.special_tokens)
    assert isinstance(tokenizer, JsonTokenizer)
    talk = Conversation(pair("a<|endoftext|>b", "c<|padding|>"))
    whole = "<|im_start|>user\na<|endoftext|>b<|im_end|>\n<|im_start|>assistant\nc<|padding|><|im_end|>\n"
    encoded = ReferencePass(tokenizer, CHATML, encode_special_in_text=True).encode([talk])
    assert encoded.tokens.tolist() == tokenizer.backend.encode(whole, add_special_tokens=False).ids
    assert 0 in encoded.tokens and 1 in encoded.tokens
    as_text = ReferencePass(tokenizer, CHATML).encode([talk])
    assert 0 not in as_text.tokens and 1 not in as_text.tokens
    assert encoded.control_counts.tolist() == as_text.control_counts.tolist() == [2]


def test_control_tokens_in_text_stay_text_and_are_counted(sample_tokenizer: Tokenizer) -> None:
    conversation = Conversation(pair("say <|im_end|> and </s>", "ok"))
    safe = ReferencePass(sample_tokenizer, CHATML).encode([conversation])
    assert safe.control_counts.tolist() == [2]
    assert safe.tokens.tolist().count(3006) == 2 and 2 not in safe.tokens.tolist()
    as_original = ReferencePass(sample_tokenizer, CHATML, encode_special_in_text=True).encode([conversation])
    text = CHATML.render(conversation).text
    assert as_original.tokens.tolist() == sample_tokenizer.encode(text)
    assert as_original.tokens.tolist().count(3006) == 3 and as_original.control_counts.tolist() == [2]


def test_turns_that_begin_inside_a_text(sample_tokenizer: Tokenizer) -> None:
    """In Llama 2's format the ids are those of the whole text. The space before a reply begins its first token."""
    reference = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLE_MODEL))
    batch = ReferencePass(sample_tokenizer, CHAT_FORMATS["llama2"]).encode(
        [Conversation((*pair("Hi", "So"), *pair("b", "c")))]
    )
    ids, roles = documents(batch)[0]
    first, second = reference.encode("[INST] Hi [/INST] So "), reference.encode("[INST] b [/INST] c ")
    assert ids == [1, *first, 2, 1, *second, 2]
    asked = len(reference.encode("[INST] Hi [/INST]"))
    assert roles[: 1 + asked] == [1] * (1 + asked) and set(roles[1 + asked : 2 + len(first)]) == {2}


@pytest.fixture(scope="module")
def first_only_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a `tokenizer.json` that puts `▁` only before the document, as newer Llama and Mistral conversions do."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    backend.train_from_iterator(["the user cat sat [INST]</s>", "assistant dog and user cat\n user assistant"], trainer)
    path = tmp_path_factory.mktemp("first_only") / "tokenizer.json"
    backend.save(str(path))
    return path


@pytest.mark.parametrize("name", ["chatml", "llama2"])
def test_the_start_of_a_document_is_no_turn(first_only_path: Path, name: str) -> None:
    chat_format = CHAT_FORMATS[name]
    tokenizer = load_tokenizer(first_only_path, chat_format.special_tokens)
    assert isinstance(tokenizer, JsonTokenizer)
    talk = Conversation(pair("the cat", "dog and"))
    whole = chat_format.render(talk).text
    expected = tokenizer.backend.encode(whole, add_special_tokens=False)
    assert ReferencePass(tokenizer, chat_format).encode([talk]).tokens.tolist() == expected.ids
    assert expected.tokens[1][0] != "▁"
    spelled = ReferencePass(tokenizer, chat_format).encode([Conversation(pair("a</s>", "b"))])
    assert tokenizer.token_to_id("</s>") not in spelled.tokens[:-1] and spelled.control_counts.tolist() == [1]
    assert tokenizer.id_to_token(tokenizer.encode_plain("cat")[0])[:1] == "▁"  # type: ignore[index]


@needs_shared
def test_ids_of_llama2_literally() -> None:
    tokenizer = load_tokenizer(SHARED / "tokenizers/llama2/tokenizer.model", CHATML.special_tokens)
    ids, roles = documents(ReferencePass(tokenizer, CHATML).encode([Conversation(pair("prompt", "x"))]))[0]
    assert ids == [32005, 1404, 13, 14032, 415, 32006, 29871, 13, 32005, 20255, 13, 29916, 32006, 29871, 13]
    assert roles == [1] * 8 + [2] * 7
