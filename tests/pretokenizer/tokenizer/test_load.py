"""Loaded tokenizers give the published ids, and damaged files and folders are refused."""

from pathlib import Path

import pytest

from pretokenizer.tokenizer.base import TokenizerError
from pretokenizer.tokenizer.load import load_tokenizer, load_tokenizer_folder
from tests.pretokenizer.conftest import CHATML_TOKENS, SAMPLE_MODEL, SHARED, needs_shared


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
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


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(b"nonsense")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"a\.model: not a SentencePiece model"):
        load_tokenizer(tmp_path / "a.model")
    with pytest.raises(TokenizerError, match=r"a\.json: not a tokenizer\.json"):
        load_tokenizer(tmp_path / "a.json")
    with pytest.raises(TokenizerError, match=r"has neither tokenizer\.model nor tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    for path in (tmp_path, tmp_path / "vocab.json"):
        with pytest.raises(TokenizerError, match=r"vocab\.json: .*parts of a tokenizer.*AutoTokenizer"):
            load_tokenizer(path)


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
