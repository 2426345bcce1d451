"""Look up the rotary embedding angles of packed rows by position, once per micro-batch.

megatron-core slices the angles of a packed row document by document in every layer, and waits for the GPU four times
per layer. Here GPTModel gets the angles of every token before the first layer, and the layers treat the row like any
other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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
            return torch.as_tensor(self.table(positions, cp_group=cp_group))
        angles: Tensor = self.table(positions.numel(), cp_group=cp_group)
        return angles.index_select(0, positions.view(-1))
