"""Megatron-LM's own load_checkpoint reads our checkpoints with default strictness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from checkpoint_convert.convert import from_hf
from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.verify.logits import hugging_face_logits
from tests.checkpoint_convert.tiny_models import save_tiny_model
from tests.interop.wheels import CPYTHON_312, install_or_skip, run_with

pytestmark = [pytest.mark.interop, pytest.mark.slow]
WHEEL = "megatron-core==0.19.2"
"""The first release whose wheel has Megatron-LM's training package. It has no wheel for Python 3.11."""
PROGRAM = Path(__file__).with_name("megatron_lm_program.py")


@pytest.fixture(scope="module")
def megatron_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_or_skip(tmp_path_factory.mktemp("megatron"), [WHEEL], "--no-deps", *CPYTHON_312)


@pytest.mark.parametrize("kind", ["llama_gqa", "llama_tied", "qwen2"])
def test_megatron_lm_loads_a_release(kind: str, megatron_lm: Path, tmp_path: Path) -> None:
    save_tiny_model(kind, tmp_path / "hf")
    from_hf(tmp_path / "hf", tmp_path / "ckpt", ImportOptions())
    tokens = torch.randint(0, 400, (2, 24), generator=torch.Generator().manual_seed(3)).tolist()
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))

    printed = run_with(
        megatron_lm, str(PROGRAM), str(tmp_path / "ckpt"), str(tmp_path / "tokens.json"), str(tmp_path / "logits.pt")
    )

    assert "strictness assume_ok_unexpected iteration 0" in printed
    assert "successfully loaded checkpoint" in printed
    expected = hugging_face_logits(tmp_path / "hf", tokens)
    found = torch.load(tmp_path / "logits.pt")
    assert (found[..., :400] - expected).abs().max() < 1e-5
