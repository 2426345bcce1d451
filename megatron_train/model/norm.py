"""RMSNorm and LayerNorm for megatron-core layers, usable with sequence parallelism.

megatron-core's own torch norm refuses sequence parallelism. The norms here set `sequence_parallel` on their weights, so
that finalize_model_grads sums the gradients over the tensor-parallel group.
"""

from __future__ import annotations

from typing import Any

from megatron.core.transformer import TransformerConfig
from torch import nn


class Norm:
    """Factory that megatron-core calls like a class to make an nn.RMSNorm or nn.LayerNorm over the last axis.

    Norm(config, hidden_size, eps) returns the kind that `config.normalization` names.
    """

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> Any:
        kind = nn.RMSNorm if config.normalization == "RMSNorm" else nn.LayerNorm
        norm = kind(
            hidden_size, eps=eps, dtype=config.params_dtype, device=None if config.use_cpu_initialization else "cuda"
        )
        for parameter in norm.parameters():
            setattr(parameter, "sequence_parallel", config.sequence_parallel)  # noqa: B010
        return norm
