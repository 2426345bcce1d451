"""tokenizer.json of a SentencePiece model, against sentencepiece itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from checkpoint_convert.huggingface.sentencepiece_tokenizer import differing_texts, merges_of, tokenizers_backend
from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.tokenizer.load import load_tokenizer
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.checkpoint_convert.conftest import train_spm
from tests.paths import SHARED

TOKENIZERS = SHARED / "tokenizers"
EXTRA = ("<|im_start|>", "<|im_end|>")
FRAGMENTS = [" ", "  ", "\n", "\t", "a", "the", "dog", "é", "ß", "日", "🎉", "=", "--", "_", "0", "12", "\u2581", "...",
             "</s>", "<s>", "<unk>", "<PAD>", "<|im_start|>", "<|im_end|>", "<0x0A>", "{", "x" * 9]  # fmt: skip


def random_texts(count: int) -> list[str]:
    draw = random.Random(5)
    return ["".join(draw.choice(FRAGMENTS) for _ in range(draw.randint(1, 30))) for _ in range(count)]


def space_runs() -> list[str]:
    return [before + " " * n + after for n in range(1, 40) for before in ("", "a", "\n") for after in ("", "b")]


def assert_same_ids(tokenizer: SentencePieceTokenizer, texts: list[str]) -> None:
    backend = tokenizers_backend(tokenizer)
    for text in texts:
        assert backend.encode(text, add_special_tokens=False).ids == tokenizer.encode(text), repr(text)


def load(path: Path) -> SentencePieceTokenizer:
    tokenizer = load_tokenizer(path, EXTRA)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


def test_bpe_gives_the_ids_of_sentencepiece(spm_model: Path) -> None:
    assert_same_ids(load(spm_model), random_texts(2000) + space_runs())


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "vocab_size": 380},
        {"model_type": "bpe", "remove_extra_whitespaces": True},
        {"model_type": "bpe", "add_dummy_prefix": False},
        {"model_type": "bpe", "user_defined_symbols": ["<mask_1>", "fox"]},
    ],
    ids=["unigram", "whitespace removed", "no dummy prefix", "user symbols"],
)
def test_other_settings_give_the_ids_of_sentencepiece(tmp_path: Path, options: dict[str, object]) -> None:
    texts = [
        "The quick brown fox",
        " two  spaces ",
        "def f():\n    return 1",
        "<|im_start|>user\nA dog<|im_end|>\n",
        "é日",
    ]

    assert_same_ids(load(train_spm(tmp_path / "tokenizer.model", **options)), texts)


def test_texts_with_other_ids_are_found(spm_model: Path, tmp_path: Path) -> None:
    defined = load(train_spm(tmp_path / "bpe.model", model_type="bpe", user_defined_symbols=["foo"]))
    unigram = load(train_spm(tmp_path / "unigram.model", model_type="unigram", vocab_size=380))

    assert differing_texts(load(spm_model), tokenizers_backend(load(spm_model))) == []
    assert differing_texts(defined, tokenizers_backend(defined)) == ["foo", "a foo b"]
    assert differing_texts(unigram, tokenizers_backend(unigram)) == ["x<unk>y <0x0A> <s>"]


def test_spaces_after_words_are_refused(tmp_path: Path) -> None:
    model = train_spm(tmp_path / "tokenizer.model", model_type="bpe", treat_whitespace_as_suffix=True)

    with pytest.raises(ConvertError, match=r"tokenizer\.model: treat_whitespace_as_suffix has no counterpart"):
        tokenizers_backend(load(model))


def test_bos_is_added_only_on_request(spm_model: Path) -> None:
    backend = tokenizers_backend(load(spm_model))

    with_bos, without = backend.encode("the dog"), backend.encode("the dog", add_special_tokens=False)

    assert with_bos.ids == [1, *without.ids]


def test_decode_gives_the_text_back(spm_model: Path) -> None:
    backend = tokenizers_backend(load(spm_model))
    text = "The dog  does é 🎉\n    not mind."

    assert backend.decode(backend.encode(text, add_special_tokens=False).ids) == text


def test_merges_are_ordered_by_score_then_longest_left() -> None:
    scores = {"a": -9.0, "aa": -1.0, "aaa": -2.0, "b": -9.0, "ab": -0.5}

    assert merges_of(scores) == [("a", "b"), ("a", "a"), ("aa", "a"), ("a", "aa")]


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason="needs ../shared/tokenizers")
def test_llama2_gives_the_ids_of_sentencepiece() -> None:
    goldens = (TOKENIZERS / "goldens" / "llama-spm.inp").read_text().split("\n__ggml_vocab_test__\n")

    assert_same_ids(load(TOKENIZERS / "llama2" / "tokenizer.model"), goldens + random_texts(2000) + space_runs())
