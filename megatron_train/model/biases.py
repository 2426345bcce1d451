"""Attention and MLP layers without biases, for models that have biases only in attention or only in the MLP.

megatron-core has one switch for both (`add_bias_linear`).
"""

from __future__ import annotations

import copy
from typing import Any

from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.mlp import MLP

from megatron_train.model.rotary import RotarySelfAttention


def without_bias(config: TransformerConfig) -> TransformerConfig:
    """Return a copy of `config` that turns off the biases of all linear layers."""
    changed = copy.copy(config)
    changed.add_bias_linear = changed.add_qkv_bias = False
    return changed


class AttentionWithoutBias(RotarySelfAttention):
    """RotarySelfAttention without biases in its linear layers, whatever the configuration says."""

    def __init__(self, config: TransformerConfig, *arguments: Any, **settings: Any) -> None:
        super().__init__(without_bias(config), *arguments, **settings)


class MlpWithoutBias(MLP):
    """megatron-core's MLP without biases in its linear layers, whatever the configuration says."""

    def __init__(
        self,
        config: TransformerConfig,
        *arguments: Any,
        pg_collection: Any = None,
        is_mtp_layer: bool = False,
        **settings: Any,
    ) -> None:
        """Build the MLP. megatron-core 0.19 gives all its groups, of which an MLP takes only that of the tensor ranks.

        `is_mtp_layer` is for mixtures of experts.
        """
        if pg_collection is not None:
            settings["tp_group"] = pg_collection.tp
        super().__init__(without_bias(config), *arguments, **settings)
