"""The tokenizer.json made from a SentencePiece model gives sentencepiece's ids."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from pretokenizer.tokenizer.load import load_tokenizer
from pretokenizer.tokenizer.sentencepiece_json import (
    UnsupportedModelError,
    added_token,
    describe,
    ranked_merges,
    tokenizer_json,
)
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.pretokenizer.conftest import CHATML_TOKENS, SAMPLE_MODEL, SHARED, needs_shared
from tests.sentencepiece_models import train_spm

FRAGMENTS = [" ", "  ", "\n", "\t", "a", "the", "dog", "é", "ß", "日", "🎉", "=", "--", "_", "0", "12", "\u2581", "...",
             "</s>", "<s>", "<unk>", "<PAD>", "<|im_start|>", "<|im_end|>", "<0x0A>", "{", "x" * 9]  # fmt: skip


def random_texts(count: int) -> list[str]:
    draw = random.Random(5)
    return ["".join(draw.choice(FRAGMENTS) for _ in range(draw.randint(1, 30))) for _ in range(count)]


def space_runs() -> list[str]:
    return [before + " " * n + after for n in range(1, 40) for before in ("", "a", "\n") for after in ("", "b")]


def load(path: Path) -> SentencePieceTokenizer:
    tokenizer = load_tokenizer(path, CHATML_TOKENS)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


def backend_of(tokenizer: SentencePieceTokenizer) -> Any:
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))


def assert_same_ids(tokenizer: SentencePieceTokenizer, texts: list[str]) -> None:
    backend = backend_of(tokenizer)
    for text in texts:
        assert backend.encode(text, add_special_tokens=False).ids == tokenizer.encode(text), repr(text)


def test_bpe_gives_the_ids_of_sentencepiece(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    assert_same_ids(sentencepiece_tokenizer, random_texts(2000) + space_runs())


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "vocab_size": 380},
        {"model_type": "unigram", "vocab_size": 380, "normalization_rule_name": "nmt_nfkc"},
        {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
        {"model_type": "bpe", "remove_extra_whitespaces": True},
        {"model_type": "bpe", "add_dummy_prefix": False},
        {"model_type": "bpe", "user_defined_symbols": ["<mask_1>", "fox"]},
    ],
    ids=["unigram", "unigram normalised", "normalised", "whitespace removed", "no dummy prefix", "user symbols"],
)
def test_other_settings_give_the_ids_of_sentencepiece(tmp_path: Path, options: dict[str, object]) -> None:
    texts = [
        "The quick brown fox",
        " two  spaces ",
        "def f():\n    return 1",
        "<|im_start|>user\nA dog<|im_end|>\n",
        "é日ﬁ½",
    ]

    assert_same_ids(load(train_spm(tmp_path / "tokenizer.model", **options)), texts)


@needs_shared
def test_llama2_gives_the_ids_of_sentencepiece() -> None:
    folder = SHARED / "tokenizers"
    goldens = (folder / "goldens" / "llama-spm.inp").read_text().split("\n__ggml_vocab_test__\n")

    assert_same_ids(load(folder / "llama2" / "tokenizer.model"), goldens + random_texts(2000) + space_runs())


def test_bos_comes_only_with_special_tokens(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    backend = backend_of(sentencepiece_tokenizer)

    without = backend.encode("the dog", add_special_tokens=False).ids

    assert backend.encode("the dog").ids == [1, *without]
    assert backend.encode("the dog", "a").ids == [1, *without, 1, *sentencepiece_tokenizer.encode("a")]
    assert tokenizer_json(sentencepiece_tokenizer, add_bos=False)["post_processor"] is None


def test_decode_gives_the_text_back(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    backend = backend_of(sentencepiece_tokenizer)
    text = "The dog  does é 🎉\n    not mind."

    assert backend.decode(backend.encode(text, add_special_tokens=False).ids) == text


def test_added_tokens_are_the_special_ones_and_the_user_defined(tmp_path: Path) -> None:
    tokenizer = load(train_spm(tmp_path / "tokenizer.model", model_type="bpe", user_defined_symbols=["fox"]))

    tokens = tokenizer_json(tokenizer)["added_tokens"]

    assert [(token["id"], token["content"], token["special"]) for token in tokens] == [
        (1, "<s>", True),
        (2, "</s>", True),
        (3, "fox", False),
        (400, "<CLS>", True),
        (401, "<SEP>", True),
        (402, "<EOD>", True),
        (403, "<MASK>", True),
        (404, "<PAD>", True),
        (405, "<|im_start|>", True),
        (406, "<|im_end|>", True),
    ]
    assert added_token("x", 7) == {
        "id": 7,
        "content": "x",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def test_merges_by_score_then_longest_left_part() -> None:
    scores = {"ab": -1, "ba": -2, "aba": -3, "a": -9, "b": -9, "▁": -9, "▁▁": -10, "▁▁▁": -10}

    assert ranked_merges(scores) == [
        ("a", "b"),
        ("b", "a"),
        ("ab", "a"),
        ("a", "ba"),
        ("▁▁", "▁"),
        ("▁", "▁▁"),
        ("▁", "▁"),
    ]


def test_the_merges_are_those_of_another_converter(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    converter = pytest.importorskip("gigatoken._load.sentencepiece")
    theirs = json.loads(converter.sentencepiece_to_tokenizer_json(SAMPLE_MODEL.read_bytes()))
    ours = json.loads(json.dumps(describe(sentencepiece_tokenizer)))
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    special = {"<s>", "</s>", "<unk>"}  # we write no merges for control pieces
    assert ours["model"]["merges"] == [m for m in theirs["model"]["merges"] if "".join(m) not in special]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 380}, "is not of type BPE"),
        ({"byte_fallback": False}, "has no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises characters"),
        ({"remove_extra_whitespaces": True}, "removes whitespace"),
        ({"user_defined_symbols": ["fox"]}, "has user-defined or unused pieces"),
    ],
)
def test_features_that_merges_cannot_express_exactly(tmp_path: Path, options: dict[str, object], message: str) -> None:
    tokenizer = load(train_spm(tmp_path / "tokenizer.model", **{"model_type": "bpe", **options}))

    with pytest.raises(UnsupportedModelError, match=f"the model {message}$"):
        describe(tokenizer, exact=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe", "treat_whitespace_as_suffix": True}, "whitespace as a suffix"),
        ({"model_type": "char", "vocab_size": 300}, "model type 4"),
    ],
)
def test_models_without_a_counterpart(tmp_path: Path, options: dict[str, object], message: str) -> None:
    tokenizer = load(train_spm(tmp_path / "tokenizer.model", **options))

    with pytest.raises(UnsupportedModelError, match=rf"tokenizer\.model: .*{message}"):
        describe(tokenizer)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(SAMPLE_MODEL.read_bytes())
    tokenizer = load(path)
    path.write_bytes(b"\x0a\xff")

    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.model: not a SentencePiece model"):
        describe(tokenizer)


def test_escaped_spaces_are_needed_for_exactness(tmp_path: Path) -> None:
    model = sentencepiece_model_pb2.ModelProto.FromString(SAMPLE_MODEL.read_bytes())
    model.normalizer_spec.escape_whitespaces = False
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())

    with pytest.raises(UnsupportedModelError, match=r"the model does not escape spaces$"):
        describe(load(tmp_path / "tokenizer.model"), exact=True)
