"""Attention and MLP without biases, for models whose biases are in only one of the two.

megatron-core has one switch for both (`add_bias_linear`).
"""

from __future__ import annotations

import copy
from typing import Any

from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.mlp import MLP


def without_bias(config: TransformerConfig) -> TransformerConfig:
    """Return a copy of the configuration whose linear layers have no biases."""
    changed = copy.copy(config)
    changed.add_bias_linear = changed.add_qkv_bias = False
    return changed


class AttentionWithoutBias(SelfAttention):
    """SelfAttention whose linear layers have no biases."""

    def __init__(self, config: TransformerConfig, *arguments: Any, **settings: Any) -> None:
        super().__init__(without_bias(config), *arguments, **settings)


class MlpWithoutBias(MLP):
    """MLP whose linear layers have no biases."""

    def __init__(self, config: TransformerConfig, *arguments: Any, **settings: Any) -> None:
        super().__init__(without_bias(config), *arguments, **settings)
