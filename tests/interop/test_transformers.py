"""transformers 4.46 and 4.49 make the same of an exported folder as the installed version 5 does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from checkpoint_convert.convert import from_hf, to_hf
from checkpoint_convert.mapping.options import ExportOptions, ImportOptions
from megatron_train.checkpoint.folder import find_checkpoint
from pretokenizer.chat.formats import CHAT_FORMATS
from pretokenizer.tokenizer.load import load_tokenizer_folder
from tests.checkpoint_convert.huggingface.texts import texts_with
from tests.interop.wheels import install_or_skip, run_with

pytestmark = [pytest.mark.interop, pytest.mark.slow]
CHATML = ("<|im_start|>", "<|im_end|>")
HTTP = ("requests", "urllib3", "charset_normalizer", "idna", "certifi")
VERSIONS = {
    "4.46": ("transformers==4.46.3", "tokenizers==0.20.3", "huggingface_hub==0.36.0", *HTTP),
    "4.49": ("transformers==4.49.0", "tokenizers==0.21.4", "huggingface_hub==0.36.0", *HTTP),
}
"""Packages that a version needs besides the installed ones."""
PROGRAM = Path(__file__).with_name("transformers_program.py")
MODELS = ("llama_gqa", "mistral", "qwen2", "neox_parallel", "falcon_7b")
"""Without yarn: both older versions ignore original_max_position_embeddings."""
SENTENCEPIECE = {"llama_gqa", "mistral"}
SETTINGS = {"add_bos_token": False, "tokenizer_class": "LlamaTokenizer", "eos_token": "</s>", "bos_token": "<s>"}


@pytest.fixture(scope="module")
def exports(
    hf_folder: Callable[[str], Path], spm_model: Path, json_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One export per model with chat tokens, and `untouched`, whose tokenizer files are those of `source`."""
    root = tmp_path_factory.mktemp("exports")
    for kind in MODELS:
        tokenizer = spm_model if kind in SENTENCEPIECE else json_tokenizer
        export(hf_folder(kind), tokenizer, root / "from" / kind, root / kind, CHATML)
    export(hf_folder("llama_gqa"), spm_model, root / "source", root / "untouched", ())
    return root


def export(model: Path, tokenizer: Path, source: Path, target: Path, tokens: tuple[str, ...]) -> None:
    shutil.copytree(model, source)
    settings = {"tokenizer_class": "Qwen2Tokenizer"} if model.name == "qwen2" else SETTINGS if not tokens else {}
    if model.name == "qwen2":  # version 5 reads any tokenizer of a Qwen2 model with Qwen's splitting rule
        tokenizers.Tokenizer.from_file(str(tokenizer)).model.save(str(source))
    else:
        shutil.copyfile(tokenizer, source / tokenizer.name)
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    checkpoint = target.with_name(f"{target.name}-checkpoint")
    from_hf(source, checkpoint, ImportOptions(tokens))
    to_hf(checkpoint, target, ExportOptions())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.json"
    path.write_text(json.dumps(texts_with(CHATML)))
    return path


@pytest.fixture(scope="module")
def expected(exports: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folders = [str(exports / name) for name in (*MODELS, "source", "untouched")]
    found: dict[str, Any] = json.loads(run_with(tmp_path_factory.mktemp("none"), str(PROGRAM), str(texts), *folders))
    assert found.pop("version").startswith("5.")
    return found


@pytest.fixture(scope="module", params=VERSIONS)
def older(
    request: pytest.FixtureRequest, exports: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    packages = install_or_skip(tmp_path_factory.mktemp("packages"), VERSIONS[request.param], "--no-deps")
    folders = [str(exports / name) for name in (*MODELS, "source", "untouched")]
    found: dict[str, Any] = json.loads(run_with(packages, str(PROGRAM), str(texts), *folders))
    assert found.pop("version").startswith(request.param)
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_an_older_version_reads_an_export_as_version_5_does(
    kind: str, older: dict[str, Any], expected: dict[str, Any], exports: Path
) -> None:
    ours, theirs = older[str(exports / kind)], expected[str(exports / kind)]

    assert ours["ids"] == theirs["ids"]
    assert ours["chat"] == theirs["chat"]
    assert ours["special"].items() <= theirs["special"].items()  # classes of version 5 add an unk_token of their own
    assert ours["stops"] == theirs["stops"]
    assert ours["reply"] == theirs["reply"]
    assert (torch.tensor(ours["logits"]) - torch.tensor(theirs["logits"])).abs().max() < 1e-5


@pytest.mark.parametrize("kind", MODELS)
def test_the_ids_are_the_pretokenizers(kind: str, expected: dict[str, Any], exports: Path, texts: Path) -> None:
    folder = find_checkpoint(exports / f"{kind}-checkpoint") / "tokenizer"
    tokenizer = load_tokenizer_folder(folder)

    found = expected[str(exports / kind)]["ids"]

    assert found == tokenizer.encode_batch(json.loads(texts.read_text()))
    assert CHAT_FORMATS["chatml"].end_of_turn in tokenizer.special_tokens


def test_an_older_version_reads_an_untouched_export_as_its_source(older: dict[str, Any], exports: Path) -> None:
    assert older[str(exports / "untouched")] == older[str(exports / "source")]
