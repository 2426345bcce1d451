"""RMSNorm and LayerNorm for megatron-core layers, usable with sequence parallelism.

megatron-core's own torch norm refuses sequence parallelism. This one marks its weights; finalize_model_grads then sums
their gradients over the tensor-parallel group.
"""

from __future__ import annotations

from typing import Any

from megatron.core.transformer import TransformerConfig
from torch import nn


class Norm:
    """Factory for ModuleSpec: Norm(config, hidden_size, eps) returns an nn.RMSNorm or nn.LayerNorm of the last axis."""

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> Any:
        kind = nn.RMSNorm if config.normalization == "RMSNorm" else nn.LayerNorm
        norm = kind(
            hidden_size, eps=eps, dtype=config.params_dtype, device=None if config.use_cpu_initialization else "cuda"
        )
        for parameter in norm.parameters():
            setattr(parameter, "sequence_parallel", config.sequence_parallel)  # noqa: B010
        return norm
