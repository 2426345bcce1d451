"""SentencePiece tokenizers give sentencepiece's ids."""

from pathlib import Path

import pytest
import sentencepiece

from pretokenizer.chat.jinja_format import TemplateFormat
from pretokenizer.tokenizer.base import Tokenizer, TokenizerError
from pretokenizer.tokenizer.load import load_tokenizer
from tests.pretokenizer.conftest import CHATML_TOKENS, SAMPLE_MODEL, SHARED, needs_shared

TEXT = "Hello  world\n\té 😀 中 ▁x <s> 123"


def test_sentencepiece_vocabulary_in_the_originals_order(sample_tokenizer: Tokenizer) -> None:
    assert sample_tokenizer.vocab_size == 3007
    assert list(sample_tokenizer.special_tokens.items()) == [
        ("<CLS>", 3000),
        ("<SEP>", 3001),
        ("<EOD>", 3002),
        ("<MASK>", 3003),
        ("<PAD>", 3004),
        ("<s>", 1),
        ("</s>", 2),
        ("<|im_start|>", 3005),
        ("<|im_end|>", 3006),
    ]
    assert (sample_tokenizer.pad_token_id, sample_tokenizer.eos_token_id, sample_tokenizer.bos_token_id) == (3004, 2, 1)
    assert sample_tokenizer.id_to_token(3006) == "<|im_end|>" and sample_tokenizer.token_to_id("<0x0A>") == 13
    assert sample_tokenizer.token_to_id("no such piece") is None


def test_fragments_between_special_tokens_are_encoded_alone(sample_tokenizer: Tokenizer) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLE_MODEL))
    encoded = sample_tokenizer.encode("<|im_start|>user\nprompt<|im_end|>\n")
    assert encoded == [3005, *reference.encode("user\nprompt"), 3006, *reference.encode("\n")]
    assert encoded[-3:] == [3006, reference.piece_to_id("▁"), 13]
    assert sample_tokenizer.encode("a<PAD></s>b") == [*reference.encode("a"), 3004, 2, *reference.encode("b")]
    assert sample_tokenizer.encode("") == []
    assert sample_tokenizer.encode_batch(["a", "<s>"]) == [reference.encode("a"), [1]]


def test_plain_encoding_reads_special_tokens_as_text(sample_tokenizer: Tokenizer) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLE_MODEL))
    texts = ["<|im_end|> and </s>", TEXT]
    assert [sample_tokenizer.encode_plain(text) for text in texts] == [reference.encode(text) for text in texts]
    assert 3006 not in sample_tokenizer.encode_plain(texts[0])


def test_decoding_gives_the_text_back(sample_tokenizer: Tokenizer) -> None:
    text = "<|im_start|>user\nfünf  x 😀<|im_end|>\n"
    assert sample_tokenizer.decode(sample_tokenizer.encode(text)) == text
    with pytest.raises(TokenizerError, match="token id 3007 is outside the vocabulary of 3007"):
        sample_tokenizer.decode([3007])


def test_without_new_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS, new_tokens=False)
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2, "<|im_start|>": 3000, "<|im_end|>": 3001}
    assert tokenizer.pad_token_id == 2


@needs_shared
def test_llama2_ids_are_those_of_the_original() -> None:
    tokenizer = load_tokenizer(SHARED / "tokenizers/llama2/tokenizer.model", CHATML_TOKENS)
    assert tokenizer.encode("<|im_start|>user\nprompt<|im_end|>\n") == [32005, 1404, 13, 14032, 415, 32006, 29871, 13]
    assert tokenizer.vocab_size == 32007
    falcon = load_tokenizer(SHARED / "tokenizers/falcon/tokenizer.json", CHATML_TOKENS)
    assert list(falcon.special_tokens)[:2] == [">>TITLE<<", ">>ABSTRACT<<"] and len(falcon.special_tokens) == 13
    assert (falcon.vocab_size, falcon.pad_token_id, falcon.eos_token_id) == (65026, 11, 11)


def test_user_defined_control_symbols_stay_text_in_messages(tmp_path: Path) -> None:
    symbols = ["<start_of_turn>", "<end_of_turn>", "<table>"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            ["the cat sat on the mat", "user model turn", "a b c d e f g h i j k l m n o p q r s t"]
        ),
        model_prefix=str(tmp_path / "m"),
        vocab_size=60,
        model_type="bpe",
        byte_fallback=False,
        user_defined_symbols=symbols,
        minloglevel=3,
    )
    tokenizer = load_tokenizer(tmp_path / "m.model", new_tokens=False)
    text = "<start_of_turn>user\na <end_of_turn> <table> b<end_of_turn>\n"
    first, second, table = (tokenizer.token_to_id(symbol) for symbol in symbols)
    natural = tokenizer.align(text).ids
    assert natural == sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model")).encode(text)
    assert natural.count(second) == 2
    begin = text.index("a ")
    end = text.rindex("<end_of_turn>")
    found = tokenizer.align(text, [(begin, end)])
    assert (found.ids.count(first), found.ids.count(second), found.ids.count(table)) == (1, 1, 1)
    place = found.ids.index(second)
    assert text[found.begins[place] : found.ends[place]] == "<end_of_turn>" and found.begins[place] == end
    assert len(tokenizer.typed_pattern.findall(text)) == 3  # not <table>
    source = (
        "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\\n' + m.content + '<end_of_turn>\\n' }}{% endfor %}"
    )
    assert TemplateFormat(source, "t.jinja", tokenizer).end_of_turn == "<end_of_turn>"
