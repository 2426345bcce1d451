"""llama.cpp itself, on a GGUF file that its own script makes of an export: ids, stops and greedy text.

The package llama-cpp-python is built from source, which takes many minutes, so this test does not install it.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from checkpoint_convert.__main__ import main
from tests.checkpoint_convert.huggingface.texts import texts_with
from tests.paths import SHARED

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install llama-cpp-python")
pytestmark = [pytest.mark.interop, pytest.mark.slow]
STORIES = SHARED / "models" / "stories15M"
CHATML = "<|im_start|>,<|im_end|>"
PROMPT = "Once upon a time, there was a little dog"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return llama.cpp's convert_hf_to_gguf.py from the source archive of the installed package."""
    folder = tmp_path_factory.mktemp("source")
    requirement = f"llama-cpp-python=={llama_cpp.__version__}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    if subprocess.run([*command, requirement], check=False, timeout=600, capture_output=True).returncode:
        pytest.skip(f"the package index does not provide the source of {requirement}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/vendor/llama.cpp/convert_hf_to_gguf.py"))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real small Llama with chat tokens, exported."""
    if not STORIES.is_dir():
        pytest.skip("../shared/models/stories15M does not exist")
    folder = tmp_path_factory.mktemp("stories")
    assert main(["from-hf", str(STORIES), str(folder / "ckpt"), "--vocab_extra_ids_list", CHATML, "--no_verify"]) == 0
    assert main(["to-hf", str(folder / "ckpt"), str(folder / "out"), "--no_verify"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def model(script: Path, export: Path) -> Any:
    """The export in llama.cpp, in fp32."""
    target = export.with_name("model.gguf")
    command = [sys.executable, str(script), str(export), "--outfile", str(target), "--outtype", "f32"]
    done = subprocess.run(command, check=False, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return llama_cpp.Llama(str(target), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)


def test_ids_of_texts_and_chats_are_those_of_transformers(model: Any, export: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    for text in texts_with(CHATML.split(",")):
        if "\0" not in text:  # its C interface ends a text there
            ids = model.tokenize(text.encode(), add_bos=False, special=True)
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"], repr(text)
    talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": " It  is.\n"}]
    formatter = model._chat_handlers["chat_template.default"].__closure__
    assert formatter is not None  # the template in the file was accepted
    rendered = tokenizer.apply_chat_template(talk, tokenize=False)
    expected = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"]
    assert model.tokenize(rendered.encode(), add_bos=False, special=True) == list(expected)


def test_it_stops_where_a_turn_ends(model: Any, export: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    assert model.token_eos() == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_greedy_text_is_that_of_transformers(model: Any, export: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    ids = [tokenizer.bos_token_id, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]
    expected = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=60)[0, len(ids) :].tolist()

    found = model.create_completion(ids, max_tokens=60, temperature=0.0)["choices"][0]["text"]

    assert found.strip() == tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert len(found) > 100
