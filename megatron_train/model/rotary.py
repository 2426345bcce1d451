"""Rotary angles of packed rows, gathered by position once per micro-batch.

megatron-core cuts the angles of a packed row document by document in every layer, with four waits for the GPU per
layer. Here GPTModel gets one angle per token before the first layer, and the layers treat the row like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RotaryByPosition(nn.Module):
    """Replaces the RotaryEmbedding of a GPTModel and uses it as the table of angles."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table

    def get_rotary_seq_len(self, *arguments: Any, **options: Any) -> int | Tensor:
        """Return the number of positions, or for a PackedRow the position [1, t] of each token."""
        packed = arguments[-1]
        if packed is None:
            length: int = self.table.get_rotary_seq_len(*arguments, **options)
            return length
        positions: Tensor = packed.position_ids
        return positions

    def forward(self, positions: int | Tensor, packed_seq: bool = False, cp_group: Any = None) -> Tensor:
        """Return the angles [positions, 1, 1, rotary dimensions] of the first positions, or of each given position."""
        if isinstance(positions, int):
            return torch.as_tensor(self.table(positions, cp_group=cp_group))
        angles: Tensor = self.table(positions.numel(), cp_group=cp_group)
        return angles.index_select(0, positions.view(-1))
