"""Megatron-LLM's tensor names and layouts, as rules to and from megatron-core.

Two layouts differ from megatron-core's: q and k have interleaved rotary channels, and a gated MLP has up before gate on
each rank. Source: epfLLM/Megatron-LLM 806a833 megatron/model/language_model.py, weights_conversion/hf_to_megatron.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from checkpoint_convert.mapping.rules import Direct, Rule, Table, expand, linear
from checkpoint_convert.other_formats.rotary_order import to_halves, to_interleaved
from checkpoint_convert.tensors.tensor import ConvertError, Parts
from megatron_train.config.model_config import ModelConfig

HERE, THERE = "decoder.layers.{layer}", "encoder.layers.{layer}"
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "lm_head"


@dataclass(frozen=True)
class InterleavedQKV(Rule):
    """A rule between Megatron-LLM's query_key_value and linear_qkv.

    Both have the same groups, but q and k have interleaved rotary channels in Megatron-LLM.
    """

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return _reorder(tensors[0], model, to_halves)

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [_reorder(tensor, model, to_interleaved)]


def _reorder(tensor: Tensor, model: ModelConfig, order: Callable[[Tensor, int], Tensor]) -> Parts:
    values = model.head_dim
    groups = (group.split([len(group) - values, values]) for group in tensor.chunk(model.query_groups))
    return [part for rotated, value in groups for part in (order(rotated, model.head_dim), value)]


@dataclass(frozen=True)
class UpGate(Rule):
    """A rule between Megatron-LLM's dense_h_to_4h of a gated MLP and linear_fc1.

    dense_h_to_4h has the rows of up before those of gate, linear_fc1 after them.
    """

    def to_megatron(self, tensors: Sequence[Tensor], model: ModelConfig) -> Parts:
        return tensors[0].chunk(2)[::-1]

    def to_other(self, tensor: Tensor, model: ModelConfig) -> list[Parts]:
        return [tensor.chunk(2)[::-1]]


def table(model: ModelConfig) -> Table:
    """Return the rules that convert every tensor of a model between Megatron-LLM and megatron-core.

    Raises ConvertError for a model that Megatron-LLM lacks.
    """
    if model.family not in ("llama", "falcon") or model.add_qkv_bias or model.rotary_percent != 1.0:
        raise ConvertError(f"Megatron-LLM has Llama and Falcon models only, not this {model.family} model")
    if model.bias_in != "all":
        raise ConvertError("Megatron-LLM has biases in all linear layers or in none")
    norm_bias, bias = model.normalization == "LayerNorm", model.add_bias_linear
    attention, mlp = "self_attention", UpGate if model.gated_linear_unit else Direct
    second = "post_attention_layernorm" if not model.parallel_residual else "mlp_layernorm"
    second_norm = linear(Direct, f"{HERE}.pre_mlp_layernorm", f"{THERE}.{second}", norm_bias)
    head = Direct("output_layer.weight", HEAD, is_vocabulary=True)
    rules = (
        Direct("embedding.word_embeddings.weight", EMBEDDING, is_vocabulary=True),
        *linear(Direct, f"{HERE}.input_layernorm", f"{THERE}.input_layernorm", norm_bias),
        *linear(InterleavedQKV, f"{HERE}.{attention}.linear_qkv", f"{THERE}.{attention}.query_key_value", bias),
        *linear(Direct, f"{HERE}.{attention}.linear_proj", f"{THERE}.{attention}.dense", bias),
        *(() if model.shared_norm else second_norm),
        *linear(mlp, f"{HERE}.mlp.linear_fc1", f"{THERE}.mlp.dense_h_to_4h", bias),
        *linear(Direct, f"{HERE}.mlp.linear_fc2", f"{THERE}.mlp.dense_4h_to_h", bias),
        *linear(Direct, "decoder.final_layernorm", "encoder.final_layernorm", norm_bias),
        *(() if model.share_embeddings_and_output_weights else (head,)),
    )
    return Table(f"Megatron-LLM {model.family} model", expand(rules, model.num_layers), buffers=(".inv_freq",))


def partition_axis(name: str) -> int | None:
    """Return the axis on which Megatron-LLM's tensor-parallel ranks split a tensor.

    Return None when each rank holds the whole tensor.
    """
    if name.endswith(("query_key_value.weight", "query_key_value.bias", "dense_h_to_4h.weight", "dense_h_to_4h.bias")):
        return 0
    if name.endswith((".dense.weight", "dense_4h_to_h.weight")):
        return 1
    return 0 if name in (EMBEDDING, HEAD) else None


def is_up_gate(name: str, model_is_gated: bool) -> bool:
    """Return whether each rank's part of the tensor `name` is a share of up followed by a share of gate.

    This is so for the first linear layer of a gated MLP.
    """
    return model_is_gated and ".dense_h_to_4h." in name
