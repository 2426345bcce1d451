"""Rotary position embeddings: the table is looked up by position once per micro-batch, and layers only multiply.

megatron-core computes the cosines and sines again for the queries and the keys of every layer. For packed rows it also
slices the angles document by document, and waits for the GPU four times per layer. Here GPTModel gets the table of
every token before the first layer, and the layers treat a packed row like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.common.embeddings import YarnRotaryEmbedding
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from megatron_train.config.model_config import ModelConfig
from megatron_train.model.compiled import Operation, operation_for


class RotaryByPosition(nn.Module):
    """Replaces the RotaryEmbedding of a GPTModel: looks up cosines and sines by position, also in packed rows.

    The wrapped RotaryEmbedding, `table`, still computes the angles.
    """

    def __init__(self, table: Any, dtype: torch.dtype | None) -> None:
        """Wrap `table`. The module returns cosines and sines in `dtype`; None = angles, for Transformer Engine."""
        super().__init__()
        self.table, self.dtype = table, dtype

    def get_rotary_seq_len(self, *arguments: Any, **options: Any) -> int | Tensor:
        """Return the number of positions of the rows, or for a packed row the position of each token [1, tokens].

        GPTModel passes the result to `forward`.
        """
        packed = arguments[-1]
        if packed is None:
            length: int = self.table.get_rotary_seq_len(*arguments, **options)
            return length
        positions: Tensor = packed.position_ids
        return positions

    def forward(self, positions: int | Tensor, packed_seq: bool = False, cp_group: Any = None) -> Tensor:
        """Return the table [positions, 1, 1, r] of the first `positions` positions, or of each position in a tensor.

        r is the number of rotary dimensions. The first r / 2 columns are the cosines and the others the sines, or all
        are angles.
        """
        length = positions if isinstance(positions, int) else positions.numel()
        table = self.angles(length, cp_group) if self.dtype is None else self.cosines_and_sines(length, cp_group)
        return table if isinstance(positions, int) else table.index_select(0, positions.view(-1))

    def angles(self, length: int, cp_group: Any = None) -> Tensor:
        """Return the angles [length, 1, 1, r] of the first positions, without the factor that yarn's table returns."""
        found = self.table(length, cp_group=cp_group)
        angles: Tensor = found[0] if isinstance(found, tuple) else found
        return angles

    def cosines_and_sines(self, length: int, cp_group: Any = None) -> Tensor:
        """Return the cosines and sines [length, 1, 1, r] of the first positions. Those of yarn include its factor."""
        found = self.table(length, cp_group=cp_group)
        angles, factor = found if isinstance(found, tuple) else (found, 1.0)
        half = angles[..., : angles.shape[-1] // 2]  # the other half holds the same angles
        return (torch.cat([half.cos(), half.sin()], dim=-1) * factor).to(self.dtype)


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


class RotarySelfAttention(SelfAttention):
    """megatron-core's SelfAttention, which rotates queries and keys by a table that RotaryByPosition has looked up."""

    def __init__(self, config: TransformerConfig, *arguments: Any, **settings: Any) -> None:
        super().__init__(config, *arguments, **settings)
        self.rotation = operation_for(config, Operation(_rotated, _rotated_back))

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, rotary_pos_emb: Any = None, **rest: Any
    ) -> Any:
        self.rotary_table = rotary_pos_emb  # get_query_key_value_tensors reads it, within this call
        return super().forward(hidden_states, attention_mask, rotary_pos_emb=None, **rest)

    def get_query_key_value_tensors(self, *arguments: Any, **options: Any) -> Any:
        query, key, value = super().get_query_key_value_tensors(*arguments, **options)
        return *(_Rotation.apply(x, self.rotary_table, self.rotation) for x in (query, key)), value


def _rotated(x: Tensor, table: Tensor) -> Tensor:
    """Return `x` [s, b, heads, d] with its first r dimensions rotated by `table` [s, 1, 1, r], cosines before sines."""
    cos, sin = table.chunk(2, dim=-1)
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def _rotated_back(x: Tensor, table: Tensor) -> Tensor:
    """Return `x` [s, b, heads, d] rotated by the negative angles, which is the backward pass of a rotation."""
    cos, sin = table.chunk(2, dim=-1)
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos + second * sin, second * cos - first * sin, rest], dim=-1)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, operation: Operation) -> Tensor:
        ctx.save_for_backward(table)
        ctx.operation = operation
        out: Tensor = operation.forward(x, table)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.operation.backward(grad, *ctx.saved_tensors), None, None
