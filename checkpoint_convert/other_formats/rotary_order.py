"""Convert between two orders of the channels that rotary embeddings rotate in pairs.

Hugging Face and megatron-core pair channel i with channel i + d/2 ("halves"). Meta and Megatron-LLM pair 2i with
2i + 1 ("interleaved"). A head of 6 channels:

    halves       a0 a1 a2 b0 b1 b2
    interleaved  a0 b0 a1 b1 a2 b2
"""

from __future__ import annotations

from torch import Tensor


def to_halves(rows: Tensor, channels: int) -> Tensor:
    """Reorder rows [heads*channels, ...] from interleaved order to halves, head by head."""
    return rows.unflatten(0, (-1, channels // 2, 2)).transpose(1, 2).flatten(0, 2)


def to_interleaved(rows: Tensor, channels: int) -> Tensor:
    """Reorder rows [heads*channels, ...] from halves to interleaved order, head by head. This inverts to_halves."""
    return rows.unflatten(0, (-1, 2, channels // 2)).transpose(1, 2).flatten(0, 2)
