"""Llama 1, 2, 3, CodeLlama and Mistral: their tensor names and the fields of their config.json.

Source of the names: transformers models/llama/modeling_llama.py, models/mistral/modeling_mistral.py (v5.23).
"""

from __future__ import annotations

from typing import Any

from checkpoint_convert.families.family import Family, HfConfig, one_of, positive, words
from checkpoint_convert.families.rotary import ROPE_FIELDS, rope_to_hf, rope_to_model
from checkpoint_convert.mapping.rules import Direct, FusedGateUp, FusedQKV, Rule, linear
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig

HERE, THERE = "decoder.layers.{layer}", "model.layers.{layer}"
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def weights(model: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules that convert every tensor of a Llama model. Rules for layers have `{layer}` in their names.

    Mistral, Qwen2 and Qwen3 have the same tensor names.
    """
    head = Direct("output_layer.weight", "lm_head.weight", is_vocabulary=True)
    return (
        Direct("embedding.word_embeddings.weight", "model.embed_tokens.weight", is_vocabulary=True),
        Direct(f"{HERE}.input_layernorm.weight", f"{THERE}.input_layernorm.weight"),
        *linear(
            FusedQKV,
            f"{HERE}.self_attention.linear_qkv",
            f"{THERE}.self_attn.{{q,k,v}}_proj",
            model.has_attention_bias or model.add_qkv_bias,
        ),
        *(qk_norms() if model.qk_layernorm else ()),
        *linear(Direct, f"{HERE}.self_attention.linear_proj", f"{THERE}.self_attn.o_proj", model.has_attention_bias),
        Direct(f"{HERE}.pre_mlp_layernorm.weight", f"{THERE}.post_attention_layernorm.weight"),
        *linear(FusedGateUp, f"{HERE}.mlp.linear_fc1", f"{THERE}.mlp.{{gate,up}}_proj", model.has_mlp_bias),
        *linear(Direct, f"{HERE}.mlp.linear_fc2", f"{THERE}.mlp.down_proj", model.has_mlp_bias),
        Direct("decoder.final_layernorm.weight", "model.norm.weight"),
        *(() if model.share_embeddings_and_output_weights else (head,)),
    )


def qk_norms() -> tuple[Rule, ...]:
    """Return the rules that convert the norms on queries and keys, which Qwen3 models have."""
    return tuple(
        Direct(f"{HERE}.self_attention.{word}_layernorm.weight", f"{THERE}.self_attn.{word}_norm.weight")
        for word in ("q", "k")
    )


def to_model_config(config: HfConfig) -> dict[str, Any]:
    is_mistral = config.get("model_type") == "mistral"
    heads = positive(config, "num_attention_heads", 32)
    hidden = positive(config, "hidden_size", 4096)
    groups = config.get("num_key_value_heads", 8 if is_mistral else None)
    window = config.get("sliding_window", 4096 if is_mistral else None)
    return {
        "num_layers": positive(config, "num_hidden_layers", 32),
        "hidden_size": hidden,
        "ffn_hidden_size": positive(config, "intermediate_size", 14336 if is_mistral else 11008),
        "num_attention_heads": heads,
        "num_query_groups": positive({"num_key_value_heads": groups}, "num_key_value_heads")
        if groups is not None
        else heads,
        "kv_channels": positive(config, "head_dim") if config.get("head_dim") is not None else hidden // heads,
        "max_position_embeddings": positive(config, "max_position_embeddings", 131072 if is_mistral else 2048),
        "normalization": "RMSNorm",
        "layernorm_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "gated_linear_unit": True,
        "activation": one_of(config, "hidden_act", ACTIVATIONS, "silu"),
        **biases(bool(config.get("attention_bias")), bool(config.get("mlp_bias"))),
        "sliding_window": None if window is None else positive({"sliding_window": window}, "sliding_window"),
        "share_embeddings_and_output_weights": bool(config.get("tie_word_embeddings", False)),
        "init_method_std": float(config.get("initializer_range", 0.02)),
        **rope_to_model(config),
    }


def biases(attention: bool, mlp: bool) -> dict[str, Any]:
    """Return the fields of ModelConfig that state whether attention and MLP have biases in their linear layers."""
    part = "all" if attention == mlp else "attention" if attention else "mlp"
    return {"add_bias_linear": attention or mlp, "bias_in": part}


def to_hf_config(model: ModelConfig) -> HfConfig:
    if model.parallel_residual or model.normalization != "RMSNorm" or not model.gated_linear_unit or model.add_qkv_bias:
        raise ConvertError(
            "this llama model has parts that transformers' Llama lacks (LayerNorm, parallel residual ...)"
        )
    if model.rotary_percent != 1.0:
        raise ConvertError(f"rotary_percent {model.rotary_percent}: transformers' Llama rotates all channels")
    is_mistral = model.sliding_window is not None
    own = (
        {"sliding_window": model.sliding_window}
        if is_mistral
        else {"attention_bias": model.has_attention_bias, "mlp_bias": model.has_mlp_bias}
    )
    if is_mistral and model.add_bias_linear:
        raise ConvertError("sliding_window with biases: neither Llama nor Mistral of transformers has both")
    activation = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[model.activation]
    return {
        "architectures": ["MistralForCausalLM" if is_mistral else "LlamaForCausalLM"],
        "model_type": "mistral" if is_mistral else "llama",
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.query_groups,
        "head_dim": model.head_dim,
        "hidden_act": activation,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.layernorm_epsilon,
        "initializer_range": model.init_method_std,
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "attention_dropout": 0.0,
        **own,
        **rope_to_hf(model),
    }


LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral"),
    fields=words("""
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    hidden_act max_position_embeddings rms_norm_eps initializer_range tie_word_embeddings attention_bias mlp_bias
    sliding_window
    """)
    | ROPE_FIELDS - {"rotary_pct", "rotary_emb_base", "partial_rotary_factor"},
    weights=weights,
    to_model_config=to_model_config,
    to_hf_config=to_hf_config,
    tied_copy="lm_head.weight",
    buffers=(".rotary_emb.inv_freq",),
)
