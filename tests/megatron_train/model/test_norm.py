from __future__ import annotations

import pytest
import torch
from megatron.core.transformer import TransformerConfig

from megatron_train.model.norm import Norm


@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_norm_marks_its_weights_for_sequence_parallelism(kind: str, sequence_parallel: bool) -> None:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=8,
        num_attention_heads=2,
        normalization=kind,
        use_cpu_initialization=True,
        sequence_parallel=sequence_parallel,
        tensor_model_parallel_size=2,
    )
    norm = Norm(config, 8, eps=1e-3)
    assert [getattr(p, "sequence_parallel", None) for p in norm.parameters()] == [sequence_parallel] * (
        2 if kind == "LayerNorm" else 1
    )
    x = torch.arange(8.0)
    centred = x - x.mean() if kind == "LayerNorm" else x
    torch.testing.assert_close(norm(x), centred / (centred.pow(2).mean() + 1e-3).sqrt(), rtol=1e-5, atol=1e-6)
