"""Core attention on torch alone: causal, grouped queries, sliding window, and packed documents kept apart.

Shapes, in megatron-core's order (s = sequence, b = batch, h = query heads, g = key/value heads, d = head size,
t = packed tokens):
    padded rows   query [s, b, h, d], key and value [s, b, g, d] -> [s, b, h * d]; padding is on the right,
                  where causal attention needs no mask for it
    packed rows   query [t, h, d], key and value [t, g, d], cu_seqlens [documents + 1] -> [t, h * d]
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor


class TorchAttention(MegatronModule):
    """scaled_dot_product_attention for rows; for packed rows varlen attention on CUDA, one call per document on the
    CPU.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__(config=config)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale
        self.window = config.window_size[0] + 1 if config.window_size else None  # tokens seen, the query's own included

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        with self._dropout_stream():
            if packed_seq_params is not None:
                return self._packed(query, key, value, packed_seq_params)
            q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
            return self._attend(q, k, v).permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)

    def _dropout_stream(self) -> contextlib.AbstractContextManager[None]:
        # Under sequence parallelism the block has already forked the tracker; forking again would break recomputation.
        if self.training and self.dropout and not self.config.sequence_parallel:
            return tensor_parallel.get_cuda_rng_tracker().fork()
        return contextlib.nullcontext()

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[b, h, s, d] x [b, g, s, d] -> [b, h, s, d]."""
        length = q.shape[2]
        mask = _window_mask(length, self.window, q.device) if self.window and self.window < length else None
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scale,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        if query.is_cuda and not (self.training and self.dropout):
            return self._packed_varlen(query, key, value, packed)
        out = []
        bounds = packed.cu_seqlens_q.tolist()
        for start, end in itertools.pairwise(bounds):
            q, k, v = (x[start:end].transpose(0, 1).unsqueeze(0) for x in (query, key, value))
            out.append(self._attend(q, k, v)[0].transpose(0, 1))
        return torch.cat(out).reshape(query.shape[0], -1)

    def _packed_varlen(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        out: Any = varlen_attn(
            query,
            key,
            value,
            packed.cu_seqlens_q,
            packed.cu_seqlens_kv,
            packed.max_seqlen_q,
            packed.max_seqlen_kv,
            scale=self.scale,
            window_size=(self.window - 1, 0) if self.window else (-1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.reshape(query.shape[0], -1)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        return {}  # no parameters


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Boolean [length, length], True where attention is allowed: the last `window` positions up to the query's own."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)
