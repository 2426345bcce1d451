"""tokenizer.py, against sentencepiece and tokenizers themselves."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from pretokenizer.tokenizer.base import Tokenizer, TokenizerError
from pretokenizer.tokenizer.load import load_tokenizer, load_tokenizer_folder
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


def test_plain_encoding_takes_special_tokens_for_text(sample_tokenizer: Tokenizer) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLE_MODEL))
    texts = ["<|im_end|> and </s>", TEXT]
    assert sample_tokenizer.encode_plain_batch(texts) == [reference.encode(text) for text in texts]
    assert 3006 not in sample_tokenizer.encode_plain_batch(texts)[0]


def test_decoding_gives_the_text_back(sample_tokenizer: Tokenizer) -> None:
    text = "<|im_start|>user\nfünf  x 😀<|im_end|>\n"
    assert sample_tokenizer.decode(sample_tokenizer.encode(text)) == text
    with pytest.raises(TokenizerError, match="token id 3007 is outside the vocabulary of 3007"):
        sample_tokenizer.decode([3007])


def test_without_new_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS, new_tokens=False)
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2, "<|im_start|>": 3000, "<|im_end|>": 3001}
    assert tokenizer.pad_token_id == 2


def test_json_tokenizer(byte_level_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_path, CHATML_TOKENS)
    size = tokenizers.Tokenizer.from_file(str(byte_level_path)).get_vocab_size()
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.special_tokens == {"<|padding|>": 1, "<|im_start|>": size, "<|im_end|>": size + 1}
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    text = "<|im_start|>the cat<|im_end|>\n é<|endoftext|>"
    reference = tokenizers.Tokenizer.from_file(str(byte_level_path))
    expected = [size, *reference.encode("the cat").ids, size + 1, *reference.encode("\n é").ids, 0]
    assert tokenizer.encode(text) == expected and tokenizer.encode_batch([text]) == [expected]
    assert tokenizer.decode(expected) == text
    plain = tokenizer.encode_plain_batch([text])[0]
    assert not {0, size, size + 1} & set(plain) and tokenizer.decode(plain) == text


def test_own_tokens_come_from_the_config_beside_the_file(byte_level_path: Path, tmp_path: Path) -> None:
    shutil.copy(byte_level_path, tmp_path)
    config = {"eos_token": {"content": "<|padding|>"}, "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)


def test_fingerprint_is_that_of_the_table(sample_tokenizer: Tokenizer) -> None:
    again = load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS)
    assert again.fingerprint == sample_tokenizer.fingerprint
    assert load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS[::-1]).fingerprint != sample_tokenizer.fingerprint
    assert len(again.fingerprint) == 64


@pytest.mark.parametrize("kind", ["sentencepiece", "tokenizers"])
def test_folder_gives_the_tokenizer_back(kind: str, byte_level_path: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(SAMPLE_MODEL if kind == "sentencepiece" else byte_level_path, CHATML_TOKENS)
    tokenizer.save(tmp_path, "chatml")
    again = load_tokenizer_folder(tmp_path)
    assert (again.kind, again.fingerprint, again.special_tokens) == (
        kind,
        tokenizer.fingerprint,
        tokenizer.special_tokens,
    )
    assert again.encode("<|im_start|>the cat") == tokenizer.encode("<|im_start|>the cat")
    assert json.loads((tmp_path / "tokenizer_spec.json").read_text())["chat_format"] == "chatml"


def test_folders_that_are_not_sound(tmp_path: Path) -> None:
    load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS).save(tmp_path)
    spec_path = tmp_path / "tokenizer_spec.json"
    spec = spec_path.read_text()
    spec_path.write_text(spec.replace("<|im_end|>", "<|im_stop|>"))
    with pytest.raises(TokenizerError, match="its vocabulary is not the one"):
        load_tokenizer_folder(tmp_path)
    spec_path.write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer_spec\.json: lacks kind, "):
        load_tokenizer_folder(tmp_path)
    spec_path.write_text(spec)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: no such tokenizer file"):
        load_tokenizer_folder(tmp_path)
    spec_path.unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer_spec\.json: missing"):
        load_tokenizer_folder(tmp_path)


def test_files_that_are_no_tokenizers(tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(b"nonsense")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"a\.model: not a SentencePiece model"):
        load_tokenizer(tmp_path / "a.model")
    with pytest.raises(TokenizerError, match=r"a\.json: not a tokenizer\.json"):
        load_tokenizer(tmp_path / "a.json")
    with pytest.raises(TokenizerError, match=r"has neither tokenizer\.model nor tokenizer\.json"):
        load_tokenizer(tmp_path)


@needs_shared
@pytest.mark.parametrize(
    ("golden", "path"),
    [
        ("llama-spm", "llama2/tokenizer.model"),
        ("gpt_neox", "gpt_neox/tokenizer.json"),
        ("falcon", "falcon/tokenizer.json"),
    ],
)
def test_real_tokenizers_on_published_texts(golden: str, path: str) -> None:
    folder = SHARED / "tokenizers" / "goldens"
    texts = (folder / f"{golden}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [[int(word) for word in line.split()] for line in (folder / f"{golden}.out").read_text().split("\n")]
    tokenizer = load_tokenizer(SHARED / "tokenizers" / path)
    assert len(texts) == 47 and len(expected) == 47
    assert [tokenizer.encode(text) for text in texts] == expected


@needs_shared
def test_llama2_ids_as_the_original_has_them() -> None:
    tokenizer = load_tokenizer(SHARED / "tokenizers/llama2/tokenizer.model", CHATML_TOKENS)
    assert tokenizer.encode("<|im_start|>user\nprompt<|im_end|>\n") == [32005, 1404, 13, 14032, 415, 32006, 29871, 13]
    assert tokenizer.vocab_size == 32007
    falcon = load_tokenizer(SHARED / "tokenizers/falcon/tokenizer.json", CHATML_TOKENS)
    assert list(falcon.special_tokens)[:2] == [">>TITLE<<", ">>ABSTRACT<<"] and len(falcon.special_tokens) == 13
    assert (falcon.vocab_size, falcon.pad_token_id, falcon.eos_token_id) == (65026, 11, 11)


def test_an_id_beyond_all_measure_is_refused(byte_level_path: Path, tmp_path: Path) -> None:
    described = json.loads(byte_level_path.read_text())
    described["model"]["vocab"]["a"] = 4_000_000_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: has a token of id 4,000,000,000"):
        load_tokenizer(tmp_path / "tokenizer.json")
