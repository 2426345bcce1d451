"""Qwen2, Qwen2.5 (biases on query, key and value) and dense Qwen3 (norms on queries and keys, no biases).

Their tensors have Llama's names. Source: transformers models/qwen2/modeling_qwen2.py and models/qwen3/modeling_qwen3.py
(v5.23).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from checkpoint_convert.families import llama
from checkpoint_convert.families.family import Family, HfConfig, one_of, positive, refuse_unless, words
from checkpoint_convert.families.rotary import ROPE_FIELDS, rope_to_hf, rope_to_model
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig

FIELDS = words("""
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    hidden_act max_position_embeddings rms_norm_eps initializer_range tie_word_embeddings attention_bias
    use_sliding_window sliding_window max_window_layers layer_types
    """) | ROPE_FIELDS - {"rotary_pct", "rotary_emb_base", "partial_rotary_factor"}
DEFAULT_WINDOW, DEFAULT_WINDOW_LAYERS = 4096, 28


def to_model_config(config: HfConfig) -> dict[str, Any]:
    """Convert the fields of config.json that Qwen2 and Qwen3 share to fields of ModelConfig. Raises ConvertError."""
    heads, hidden = positive(config, "num_attention_heads", 32), positive(config, "hidden_size", 4096)
    layers = positive(config, "num_hidden_layers", 32)
    return {
        "num_layers": layers,
        "hidden_size": hidden,
        "ffn_hidden_size": positive(config, "intermediate_size", 22016),
        "num_attention_heads": heads,
        "num_query_groups": positive(config, "num_key_value_heads", 32),
        "max_position_embeddings": positive(config, "max_position_embeddings", 32768),
        "normalization": "RMSNorm",
        "layernorm_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "gated_linear_unit": True,
        "activation": one_of(config, "hidden_act", llama.ACTIVATIONS, "silu"),
        "sliding_window": sliding_window(config, layers),
        "share_embeddings_and_output_weights": bool(config.get("tie_word_embeddings", False)),
        "init_method_std": float(config.get("initializer_range", 0.02)),
        **rope_to_model(config),
    }


def to_qwen2(config: HfConfig) -> dict[str, Any]:
    refuse_unless(config, "attention_bias", True)
    fields = to_model_config(config)
    if config.get("head_dim") not in (None, fields["hidden_size"] // fields["num_attention_heads"]):
        raise ConvertError(f"head_dim = {config['head_dim']!r}: Qwen2 divides hidden_size among its heads")
    return {**fields, "add_qkv_bias": True}


def to_qwen3(config: HfConfig) -> dict[str, Any]:
    refuse_unless(config, "attention_bias", False, None)
    return {**to_model_config(config), "kv_channels": positive(config, "head_dim", 128), "qk_layernorm": True}


def sliding_window(config: HfConfig, num_layers: int) -> int | None:
    """Return the attention window in tokens that every layer has, or None when no layer has one.

    Raises ConvertError when only some layers have it, or for an invalid setting.
    """
    if not config.get("use_sliding_window"):
        return None
    first = config.get("max_window_layers", DEFAULT_WINDOW_LAYERS)
    if not isinstance(first, int) or first < 0:
        raise ConvertError(f"max_window_layers is {first!r}; expected the number of the first layer with a window")
    if first >= num_layers:
        return None
    if first > 0:
        raise ConvertError(f"max_window_layers = {first}: a window in only some layers is not supported")
    return positive(config, "sliding_window", DEFAULT_WINDOW)


def to_hf_config(model: ModelConfig) -> HfConfig:
    """Return the fields of config.json that Qwen2 and Qwen3 share. Raises ConvertError for parts that Qwen lacks."""
    if model.parallel_residual or model.normalization != "RMSNorm" or not model.gated_linear_unit:
        raise ConvertError("Qwen models of transformers have RMSNorm, a gated MLP and no parallel residual")
    if model.add_bias_linear or model.rotary_percent != 1.0:
        raise ConvertError("Qwen models of transformers lack biases outside of attention, and rotate whole heads")
    activation = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[model.activation]
    return {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.query_groups,
        "hidden_act": activation,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.layernorm_epsilon,
        "initializer_range": model.init_method_std,
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "attention_dropout": 0.0,
        "use_sliding_window": model.sliding_window is not None,
        "sliding_window": model.sliding_window,
        "max_window_layers": 0 if model.sliding_window is not None else model.num_layers,
        **rope_to_hf(model),
    }


def from_qwen2(model: ModelConfig) -> HfConfig:
    if not model.add_qkv_bias or model.qk_layernorm:
        raise ConvertError("Qwen2 of transformers has biases on query, key and value, and no norms on them")
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **to_hf_config(model)}


def from_qwen3(model: ModelConfig) -> HfConfig:
    if model.add_qkv_bias or not model.qk_layernorm:
        raise ConvertError("Qwen3 of transformers has norms on queries and keys, and no biases")
    own = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False}
    return {**own, "head_dim": model.head_dim, **to_hf_config(model)}


QWEN2 = Family(
    name="qwen2",
    model_types=("qwen2",),
    fields=FIELDS,
    weights=llama.weights,
    to_model_config=to_qwen2,
    to_hf_config=from_qwen2,
    tied_copy="lm_head.weight",
    buffers=(".rotary_emb.inv_freq",),
)
QWEN3 = replace(QWEN2, name="qwen3", model_types=("qwen3",), to_model_config=to_qwen3, to_hf_config=from_qwen3)
