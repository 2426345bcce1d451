"""Fixtures of the pretokenizer's tests: tokenizers, small data folders, and a build in one call."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from pretokenizer.build import build
from pretokenizer.config.settings import PretokenizeConfig, RunOptions, make_config
from pretokenizer.files.manifest import DataManifest
from pretokenizer.tokenizer.base import Tokenizer
from pretokenizer.tokenizer.load import load_tokenizer
from pretokenizer.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.paths import ROOT, SHARED

SAMPLE_MODEL = ROOT / "examples" / "data" / "tokenizer" / "sample.model"
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

needs_shared = pytest.mark.skipif(not (SHARED / "goldens.json").is_file(), reason="../shared is not here")


@pytest.fixture(scope="session")
def sample_tokenizer() -> Tokenizer:
    """Return the shipped SentencePiece tokenizer with the control tokens of chatml."""
    return load_tokenizer(SAMPLE_MODEL, CHATML_TOKENS)


@pytest.fixture(scope="session")
def byte_level_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a byte-level `tokenizer.json` like GPT-NeoX's, trained on two sentences."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat", "the dog and the cat sat and sat"], trainer)
    path = tmp_path_factory.mktemp("byte_level") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def straddling_template(tmp_path: Path) -> Path:
    """Return the path of a chat template whose prompt ends with a space, which joins the first word of the reply."""
    path = tmp_path / "straddling.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '<|endoftext|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return path


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(sample_tokenizer: Tokenizer) -> SentencePieceTokenizer:
    """Return the sample tokenizer under its own type, for tests of its SentencePiece methods."""
    assert isinstance(sample_tokenizer, SentencePieceTokenizer)
    return sample_tokenizer


@pytest.fixture(autouse=True)
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the slow parts of a small build: flushing to disk and drawing the lengths."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("pretokenizer.reports.plots.has_plots", lambda: False)


def touch(folder: Path, *names: str) -> Path:
    """Create empty files in a folder, with the subfolders that their names have, and return the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write_jsonl(path: Path, records: list[Any]) -> Path:
    """Write records as JSON lines, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def make_toy_config(tmp_path: Path, datasets: list[Any], **keys: Any) -> PretokenizeConfig:
    """Return a configuration with the sample tokenizer, data in tmp_path/data and output in tmp_path/out."""
    merged = {
        "datasets": datasets,
        "vocab_file": str(SAMPLE_MODEL),
        "data_dir": str(tmp_path / "data"),
        "output_dir": str(tmp_path / "out"),
        "filename_prefix": "toy",
        **keys,
    }
    return make_config(merged, "test")[0]


BuildToy = Callable[..., tuple[DataManifest, Path]]


@pytest.fixture
def build_toy(tmp_path: Path) -> BuildToy:
    """Return a function that builds a configuration of make_toy_config and returns (manifest, folder)."""

    def run(datasets: list[Any], options: RunOptions | None = None, **keys: Any) -> tuple[DataManifest, Path]:
        config = make_toy_config(tmp_path, datasets, **keys)
        return build(config, options or RunOptions()), config.output_folder

    return run


def question_records(count: int) -> list[dict[str, str]]:
    """Return `count` different gsm8k records."""
    return [{"question": f"What is {i} plus {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(count)]
