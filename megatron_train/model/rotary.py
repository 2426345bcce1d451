"""Look up the rotary embedding angles of packed rows by position, once per micro-batch.

megatron-core slices the angles of a packed row document by document in every layer, and waits for the GPU four times
per layer. Here GPTModel gets the angles of every token before the first layer, and the layers treat the row like any
other.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.common.embeddings import YarnRotaryEmbedding
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from megatron_train.config.model_config import ModelConfig


class RotaryByPosition(nn.Module):
    """Replaces the RotaryEmbedding of a GPTModel. The wrapped RotaryEmbedding, `table`, still computes the angles."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table

    def get_rotary_seq_len(self, *arguments: Any, **options: Any) -> int | Tensor:
        """Return the number of positions of the rows, or for a packed row the position of each token [1, tokens]."""
        packed = arguments[-1]
        if packed is None:
            length: int = self.table.get_rotary_seq_len(*arguments, **options)
            return length
        positions: Tensor = packed.position_ids
        return positions

    def forward(self, positions: int | Tensor, packed_seq: bool = False, cp_group: Any = None) -> Tensor:
        """Return the rotary angles [positions, 1, 1, rotary dimensions].

        They are those of the first `positions` positions for a number, or of each position in a tensor of positions.
        """
        if isinstance(positions, int):
            return self.angles(positions, cp_group)
        return self.angles(positions.numel(), cp_group).index_select(0, positions.view(-1))

    def angles(self, length: int, cp_group: Any = None) -> Tensor:
        """Return the angles of the first `length` positions, without the factor that the table for yarn adds."""
        found = self.table(length, cp_group=cp_group)
        angles: Tensor = found[0] if isinstance(found, tuple) else found
        return angles


def yarn_table(model: ModelConfig, config: TransformerConfig) -> YarnRotaryEmbedding:
    """Return megatron-core's table of rotary angles under yarn, with the values that transformers uses by default.

    `config` gets the factor as an attribute, because attention reads it there to scale queries and keys.
    """
    setattr(config, "yarn_rotary_scaling_factor", model.rope_scaling_factor)  # noqa: B010  # no field of the class
    return YarnRotaryEmbedding(
        kv_channels=model.head_dim,
        rotary_base=model.rotary_base,
        use_cpu_initialization=config.use_cpu_initialization,
        scaling_factor=model.rope_scaling_factor,
        original_max_position_embeddings=model.original_positions,
    )
