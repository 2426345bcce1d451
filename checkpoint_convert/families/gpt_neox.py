"""GPT-NeoX: Pythia, RedPajama-INCITE (attention and MLP in sequence), StableLM-alpha.

Its fused query_key_value holds [q, k, v] head by head, which is megatron-core's layout with one head a group.
Source of the names: transformers models/gpt_neox/modeling_gpt_neox.py (v5.23); files name the head `embed_out.weight`.
"""

from __future__ import annotations

from typing import Any

from checkpoint_convert.families.family import Family, HfConfig, one_of, positive, words
from checkpoint_convert.families.llama import biases
from checkpoint_convert.families.rotary import ROPE_FIELDS, rope_to_hf, rope_to_model
from checkpoint_convert.mapping.rules import Direct, Rule, linear
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig

HERE, THERE = "decoder.layers.{layer}", "gpt_neox.layers.{layer}"
ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def weights(model: ModelConfig) -> tuple[Rule, ...]:
    head = Direct("output_layer.weight", "embed_out.weight", is_vocabulary=True)
    return (
        Direct("embedding.word_embeddings.weight", "gpt_neox.embed_in.weight", is_vocabulary=True),
        *linear(Direct, f"{HERE}.input_layernorm", f"{THERE}.input_layernorm", bias=True),
        *linear(
            Direct, f"{HERE}.self_attention.linear_qkv", f"{THERE}.attention.query_key_value", model.has_attention_bias
        ),
        *linear(Direct, f"{HERE}.self_attention.linear_proj", f"{THERE}.attention.dense", model.has_attention_bias),
        *linear(Direct, f"{HERE}.pre_mlp_layernorm", f"{THERE}.post_attention_layernorm", bias=True),
        *linear(Direct, f"{HERE}.mlp.linear_fc1", f"{THERE}.mlp.dense_h_to_4h", bias=True),
        *linear(Direct, f"{HERE}.mlp.linear_fc2", f"{THERE}.mlp.dense_4h_to_h", bias=True),
        *linear(Direct, "decoder.final_layernorm", "gpt_neox.final_layer_norm", bias=True),
        *(() if model.share_embeddings_and_output_weights else (head,)),
    )


def to_model_config(config: HfConfig) -> dict[str, Any]:
    return {
        "num_layers": positive(config, "num_hidden_layers", 44),
        "hidden_size": positive(config, "hidden_size", 6144),
        "ffn_hidden_size": positive(config, "intermediate_size", 24576),
        "num_attention_heads": positive(config, "num_attention_heads", 64),
        "max_position_embeddings": positive(config, "max_position_embeddings", 2048),
        "normalization": "LayerNorm",
        "layernorm_epsilon": float(config.get("layer_norm_eps", 1e-5)),
        "gated_linear_unit": False,
        "activation": one_of(config, "hidden_act", ACTIVATIONS, "gelu"),
        **biases(bool(config.get("attention_bias", True)), mlp=True),
        "parallel_residual": bool(config.get("use_parallel_residual", True)),
        "share_embeddings_and_output_weights": bool(config.get("tie_word_embeddings", False)),
        "init_method_std": float(config.get("initializer_range", 0.02)),
        **rope_to_model(config, default_percent=0.25),
    }


def to_hf_config(model: ModelConfig) -> HfConfig:
    if model.activation == "silu":
        raise ConvertError("GPT-NeoX is converted with gelu only; this model has silu")
    if (
        model.query_groups != model.num_attention_heads
        or model.head_dim * model.num_attention_heads != model.hidden_size
    ):
        raise ConvertError("GPT-NeoX of transformers has neither grouped queries nor a head size of its own")
    if model.gated_linear_unit or model.normalization != "LayerNorm" or not model.has_mlp_bias or model.shared_norm:
        raise ConvertError("GPT-NeoX of transformers has LayerNorm, biases and a plain MLP; this model differs")
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "hidden_act": {"gelu": "gelu", "gelu_tanh": "gelu_new"}[model.activation],
        "max_position_embeddings": model.max_position_embeddings,
        "layer_norm_eps": model.layernorm_epsilon,
        "initializer_range": model.init_method_std,
        "use_parallel_residual": model.parallel_residual,
        "attention_bias": model.has_attention_bias,
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "rotary_pct": model.rotary_percent,
        "rotary_emb_base": model.rotary_base,
        **rope_to_hf(model),
    }


GPT_NEOX = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    fields=words("""
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act
    max_position_embeddings layer_norm_eps initializer_range use_parallel_residual attention_bias
    tie_word_embeddings
    """)
    | ROPE_FIELDS,
    weights=weights,
    to_model_config=to_model_config,
    to_hf_config=to_hf_config,
    tied_copy="embed_out.weight",
    aliases={"embed_out.weight": "lm_head.weight"},
    buffers=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
)
