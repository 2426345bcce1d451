"""examples/train_sample_tokenizer.py trains the shipped model from the shipped data."""

import importlib.util
from types import ModuleType

import pytest
import sentencepiece

from tests.paths import ROOT
from tests.pretokenizer.conftest import SAMPLE_MODEL


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Import the script as a module."""
    spec = importlib.util.spec_from_file_location("train_sample_tokenizer", ROOT / "examples/train_sample_tokenizer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pieces(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def test_the_shipped_model_is_that_of_the_shipped_data(script: ModuleType) -> None:
    trained = script.train(script.DATA_DIR, script.VOCAB_SIZE)
    assert pieces(trained) == pieces(SAMPLE_MODEL.read_bytes()), "run python examples/train_sample_tokenizer.py"


def test_training_is_deterministic(script: ModuleType) -> None:
    assert script.train(script.DATA_DIR, 1500) == script.train(script.DATA_DIR, 1500)


def test_the_model_is_of_llamas_kind() -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLE_MODEL))
    assert processor.get_piece_size() == 3000
    assert [processor.id_to_piece(i) for i in (0, 1, 2, 3, 258)] == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert processor.decode(processor.encode("  two  spaces\n\nÅ ﬁ 😀")) == "  two  spaces\n\nÅ ﬁ 😀"
    assert processor.encode("2024", out_type=str) == ["▁", "2", "0", "2", "4"]
