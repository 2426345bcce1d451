"""Causal attention in plain torch, with grouped queries, sliding windows and packed documents.

Shapes, in megatron-core's order: s = positions, b = rows, h = query heads, g = key/value heads, d = head size.
    query [s, b, h, d], key and value [s, b, g, d] -> [s, b, h * d]
Padding is on the right, so causal attention needs no mask for it. A packed row has b = 1, and a PackedRow holds the
boundaries of its documents.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import TrainConfig
from megatron_train.data.packed_row import PackedRow
from megatron_train.parallel.device import compute_capability

Kernel = Literal["varlen", "documents", "blocks", "rows"]
"""How attention is computed. `varlen`: flash attention over all documents at once. `documents`: one call of torch's
scaled_dot_product_attention per document. `blocks`: one call per block of queries, so that a window needs no mask of
the whole row. `rows`: one call for all rows."""
QUERIES_PER_BLOCK = 1024


def choose_kernel(
    dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None, dropout: float, packed: bool, window: bool
) -> Kernel:
    """Return the attention kernel for a micro-batch of rows.

    torch's varlen kernel needs 16-bit numbers, a head size that is a multiple of 8 and at most 256, no dropout, and an
    Ampere GPU or later. `capability` is the compute capability of the CUDA device, None on the CPU. `window` says
    whether a sliding window shorter than the row is in force.

    >>> choose_kernel(torch.bfloat16, 128, (9, 0), 0.0, packed=True, window=False)
    'varlen'
    >>> choose_kernel(torch.float32, 128, (9, 0), 0.0, packed=True, window=False)
    'documents'
    """
    has_varlen = (
        capability is not None
        and capability >= (8, 0)
        and dtype in (torch.bfloat16, torch.float16)
        and head_size % 8 == 0
        and head_size <= 256
        and dropout == 0
    )
    if has_varlen and (packed or window):
        return "varlen"
    if packed:
        return "documents"
    return "blocks" if window else "rows"


def planned_kernel(model: ModelConfig, config: TrainConfig) -> str:
    """Return the name of the attention kernel that training uses for rows of full length.

    With Transformer Engine, which chooses its own kernel, the name is `transformer_engine`.
    """
    settings = config.model
    if settings.transformer_impl == "transformer_engine":
        return settings.transformer_impl
    dtype = torch.bfloat16 if settings.bf16 else torch.float16 if settings.fp16 else torch.float32
    window = model.sliding_window is not None and model.sliding_window < config.data.seq_length
    dropout, packing = settings.attention_dropout, config.data.packing
    return choose_kernel(dtype, model.head_dim, compute_capability(), dropout, packing, window)


class TorchAttention(MegatronModule):
    """Replaces megatron-core's core attention, the computation between the query/key/value and output projections.

    Each call runs the kernel that `choose_kernel` returns for its tensors.
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
        self.window = config.window_size[0] + 1 if config.window_size else None
        """Length of the sliding window: the positions that a query attends to, its own included. None = no window."""
        self.capability = compute_capability()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedRow | None = None,
    ) -> Tensor:
        """Return the attention output [positions, rows, query heads * head size].

        The mask and bias arguments are ignored: attention is always causal, inside the sliding window if there is one,
        and inside the documents of a packed row.
        """
        length = query.shape[0] if packed_seq_params is None else packed_seq_params.max_seqlen_q
        window = self.window if self.window and self.window < length else None
        dropout = self.dropout if self.training else 0.0
        packed = packed_seq_params is not None
        kernel = choose_kernel(query.dtype, query.shape[-1], self.capability, dropout, packed, window is not None)
        if kernel == "varlen":
            return self._varlen(query, key, value, packed_seq_params, window)
        with self._dropout_stream():
            q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
            if packed_seq_params is None:
                return self._attend(q, k, v, window).permute(2, 0, 1, 3).flatten(2)
            sizes = [end - start for start, end in itertools.pairwise(packed_seq_params.bounds)]
            # The gradient of a split is one tensor. Each slice would have a gradient as long as the whole row.
            documents = zip(*(x.split(sizes, dim=2) for x in (q, k, v)), strict=True)
            parts = [self._attend(q, k, v, window).permute(2, 0, 1, 3) for q, k, v in documents]
            return torch.cat(parts).flatten(2)

    def _dropout_stream(self) -> contextlib.AbstractContextManager[None]:
        # Under sequence parallelism the block has already forked the tracker; forking again would break recomputation.
        if self.training and self.dropout and not self.config.sequence_parallel:
            return tensor_parallel.get_cuda_rng_tracker().fork()
        return contextlib.nullcontext()

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        """Return the attention output [rows, query heads, positions, head size], in blocks of queries for a `window`.

        `q` has the shape of the output. `k` and `v` have key/value heads in place of query heads.
        """
        length = q.shape[2]
        if window is None or window >= length:
            return self._sdpa(q, k, v, None)
        blocks = []
        size = max(window, QUERIES_PER_BLOCK)
        for start in range(0, length, size):
            end, first = min(start + size, length), max(0, start - window + 1)
            mask = window_mask(range(start, end), range(first, end), window, q.device)
            blocks.append(self._sdpa(q[:, :, start:end], k[:, :, first:end], v[:, :, first:end], mask))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
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

    def _varlen(
        self, query: Tensor, key: Tensor, value: Tensor, packed: PackedRow | None, window: int | None
    ) -> Tensor:
        """Return the output [positions, rows, heads * head size] of torch's variable-length flash attention.

        The sequences are the documents of a packed row, or the padded rows of a micro-batch laid end to end.
        """
        from torch.nn.attention.varlen import varlen_attn

        length, rows = query.shape[:2]
        q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (query, key, value))  # [b * s, h, d]
        if packed is None:
            bounds, longest = torch.arange(0, (rows + 1) * length, length, dtype=torch.int32, device=q.device), length
        else:
            bounds, longest = packed.cu_seqlens_q, packed.max_seqlen_q
        out: Any = varlen_attn(
            q,
            k,
            v,
            bounds,
            bounds,
            longest,
            longest,
            scale=self.scale,
            window_size=(window - 1, 0) if window else (-1, 0),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return out.view(rows, length, -1).transpose(0, 1).contiguous()

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """Return an empty dictionary, because this module has no parameters to save."""
        return {}


def window_mask(queries: range, keys: range, window: int, device: torch.device) -> Tensor:
    """Return a mask [queries, keys] that is True where a query may attend to a key.

    `queries` and `keys` are ranges of positions. A query attends to its own position and the `window` - 1 before it.
    """
    query = torch.arange(queries.start, queries.stop, device=device)
    key = torch.arange(keys.start, keys.stop, device=device)
    distance = query[:, None] - key[None, :]
    return (distance >= 0) & (distance < window)
