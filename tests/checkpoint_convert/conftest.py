"""Fixtures of the converter's tests: tokenizers trained in the test process, and tiny models converted once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import transformers

from checkpoint_convert.convert import from_hf
from checkpoint_convert.mapping.options import ImportOptions
from tests.checkpoint_convert.tiny_models import save_tiny_model
from tests.sentencepiece_models import CORPUS, train_spm


@pytest.fixture(autouse=True)
def quiet_transformers() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def spm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a Llama-like BPE `tokenizer.model` with byte fallback and at least 300 pieces."""
    return train_spm(tmp_path_factory.mktemp("spm") / "tokenizer.model", model_type="bpe")


@pytest.fixture(scope="session")
def json_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a byte-level BPE `tokenizer.json` with <|endoftext|>, as GPT-NeoX has."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    path = tmp_path_factory.mktemp("json") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the Hugging Face folder of a kind of model, which no test may change."""
    root = tmp_path_factory.mktemp("hf")

    def folder_of(kind: str) -> Path:
        if not (root / kind).exists():
            save_tiny_model(kind, root / kind)
        return root / kind

    return folder_of


@pytest.fixture(scope="session")
def converted(hf_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the converted checkpoint of a kind of model, which no test may change."""
    root = tmp_path_factory.mktemp("converted")

    def folder_of(kind: str) -> Path:
        if not (root / kind).exists():
            from_hf(hf_folder(kind), root / kind, ImportOptions())
        return root / kind

    return folder_of


@pytest.fixture
def llama_with_tokenizer(hf_folder: Callable[[str], Path], spm_model: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny Llama's folder to which the SentencePiece model is added."""
    folder = tmp_path / "llama"
    shutil.copytree(hf_folder("llama_gqa"), folder)
    shutil.copyfile(spm_model, folder / "tokenizer.model")
    return folder
