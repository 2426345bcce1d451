"""Transformer layers: one branch after the other, as in Llama, or both in parallel, as in GPT-NeoX and Falcon.

SequentialLayer computes y = x + attention(norm1(x)), then y + mlp(norm2(y)). It is megatron-core's layer, and can fuse
the first sum with norm2.

ParallelResidualLayer, which megatron-core lacks, computes x + attention(norm1(x)) + mlp(norm2(x)). With IdentityOp as
pre_mlp_layernorm, both branches read norm1(x), as in Falcon-7B. Residual dropout acts on each branch
(`parallel_residual_dropout: separate`, as in Open-Assistant's patch of Hugging Face) or once on the sum of the branches
(`sum`, as in Megatron-LLM).

Input and output of a layer are [positions, rows, hidden size], or [tokens, 1, hidden size] for a packed row.
"""

from __future__ import annotations

from typing import Any

from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from megatron_train.model.norm import add_and_norm


class SequentialLayer(TransformerLayer):
    """megatron-core's TransformerLayer. With --compile, the sum after attention and the norm after it are one kernel.

    They stay apart where dropout acts between them, because compiled dropout would draw other random numbers.
    """

    def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        dropout = self.training and self.hidden_dropout > 0
        if dropout or not getattr(self.config, "compile_operations", False):
            return super().forward(hidden_states, *arguments, **options)
        for name in ("context", "context_mask", "padding_mask"):  # for cross attention and experts, which no layer has
            options.pop(name, None)
        attention, bias = self.self_attention(self.input_layernorm(hidden_states), *arguments, **options)
        attention = attention if bias is None else attention + bias
        hidden_states, normed = add_and_norm(attention, hidden_states, self.pre_mlp_layernorm)
        add = self.mlp_bda(self.training, self.config.bias_dropout_fusion)
        return add(self.mlp(normed), hidden_states, 0.0), None


class ParallelResidualLayer(TransformerLayer):
    """Transformer layer with a parallel residual: x + attention(norm1(x)) + mlp(norm2(x)).

    It replaces megatron-core's TransformerLayer in models such as GPT-NeoX and Falcon.
    """

    dropout_on_sum = False
    """Whether dropout acts once on the sum of attention and MLP, instead of on each. model/build.py sets it."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        context: Tensor | None = None,
        rotary_pos_emb: Tensor | None = None,
        rotary_pos_cos: Tensor | None = None,
        rotary_pos_sin: Tensor | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
        sequence_len_offset: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        normed = self.input_layernorm(hidden_states)
        mlp_input = normed if isinstance(self.pre_mlp_layernorm, IdentityOp) else self.pre_mlp_layernorm(hidden_states)
        attention, attention_bias_out = self.self_attention(
            normed,
            attention_mask=attention_mask,
            rotary_pos_emb=rotary_pos_emb,
            rotary_pos_cos=rotary_pos_cos,
            rotary_pos_sin=rotary_pos_sin,
            attention_bias=attention_bias,
            packed_seq_params=packed_seq_params,
            sequence_len_offset=sequence_len_offset,
        )
        mlp, mlp_bias = self.mlp(mlp_input)
        add = self.mlp_bda(self.training, self.config.bias_dropout_fusion)
        if self.dropout_on_sum:
            return add(
                (attention + mlp, _sum(attention_bias_out, mlp_bias)), hidden_states, self.hidden_dropout
            ), context
        hidden_states = add((attention, attention_bias_out), hidden_states, self.hidden_dropout)
        return add((mlp, mlp_bias), hidden_states, self.hidden_dropout), context


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
