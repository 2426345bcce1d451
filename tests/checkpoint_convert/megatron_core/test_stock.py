"""Stock megatron-core loads our checkpoints with its strictest checks and computes transformers' logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoint_convert.verify.logits import draw_tokens, hugging_face_logits
from megatron_train.config.model_config import ModelConfig
from tests.checkpoint_convert.megatron_core.stock_model import load_strictly, stock_logits, stock_model
from tests.distributed import run_distributed

KINDS = ("llama_gqa", "llama_tied")


def logits_of(folder: str, tokens: list[list[int]], tp: int, pp: int) -> torch.Tensor | None:
    """On each rank: build the stock model, load the checkpoint, and compute."""
    model = ModelConfig.load(Path(folder) / "model_config.yaml")
    chunk = stock_model(model, tp, pp)
    load_strictly(chunk, Path(folder))
    return stock_logits(chunk, tokens)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_megatron_core_loads_a_release_strictly(
    kind: str, tp: int, pp: int, hf_folder: Callable[[str], Path], converted: Callable[[str], Path]
) -> None:
    release = converted(kind) / "release"
    tokens = draw_tokens(ModelConfig.load(release / "model_config.yaml"), 400)
    expected = hugging_face_logits(hf_folder(kind), tokens)

    found = run_distributed(logits_of, tp * pp, str(release), tokens, tp, pp)

    last = [logits for logits in found if logits is not None]
    assert len(last) == tp
    assert (last[0][..., :400] - expected).abs().max() < 1e-5
