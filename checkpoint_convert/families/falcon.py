"""Falcon: 7B (one norm, one key/value head), 40B and 11B (grouped queries), and models without parallel attention.

The fused query_key_value has rows [q..., k, v] for each group, as in megatron-core. With multi_query there is one
group. The first files of 7B and 40B have model_type RefinedWebModel and RefinedWeb, and older field names. Source of
the names: transformers models/falcon/modeling_falcon.py (v5.23).
"""

from __future__ import annotations

from typing import Any

from checkpoint_convert.families.family import Family, HfConfig, one_of, positive, refuse_unless, words
from checkpoint_convert.families.rotary import ROPE_FIELDS, rope_to_hf, rope_to_model
from checkpoint_convert.mapping.rules import Direct, Rule, linear
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig

HERE, THERE = "decoder.layers.{layer}", "transformer.h.{layer}"
OLD_FIELDS = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_head_kv": "num_kv_heads"}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def weights(model: ModelConfig) -> tuple[Rule, ...]:
    bias = model.add_bias_linear
    head = Direct("output_layer.weight", "lm_head.weight", is_vocabulary=True)
    return (
        Direct("embedding.word_embeddings.weight", "transformer.word_embeddings.weight", is_vocabulary=True),
        *norms(model),
        *linear(Direct, f"{HERE}.self_attention.linear_qkv", f"{THERE}.self_attention.query_key_value", bias),
        *linear(Direct, f"{HERE}.self_attention.linear_proj", f"{THERE}.self_attention.dense", bias),
        *linear(Direct, f"{HERE}.mlp.linear_fc1", f"{THERE}.mlp.dense_h_to_4h", bias),
        *linear(Direct, f"{HERE}.mlp.linear_fc2", f"{THERE}.mlp.dense_4h_to_h", bias),
        *linear(Direct, "decoder.final_layernorm", "transformer.ln_f", bias=True),
        *(() if model.share_embeddings_and_output_weights else (head,)),
    )


def norms(model: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules for the norms of a layer: one shared norm (7B, 11B), or one each for attention and MLP."""
    if model.shared_norm:
        return linear(Direct, f"{HERE}.input_layernorm", f"{THERE}.input_layernorm", bias=True)
    names = ("ln_attn", "ln_mlp") if model.parallel_residual else ("input_layernorm", "post_attention_layernorm")
    return (
        *linear(Direct, f"{HERE}.input_layernorm", f"{THERE}.{names[0]}", bias=True),
        *linear(Direct, f"{HERE}.pre_mlp_layernorm", f"{THERE}.{names[1]}", bias=True),
    )


def current_names(config: HfConfig) -> HfConfig:
    """Return config.json with the field names of the first Falcon releases replaced by today's names.

    A first release of 40B (model_type RefinedWeb) also gets new_decoder_architecture, which its type implies.
    """
    renamed = {OLD_FIELDS.get(key, key): value for key, value in config.items()}
    if config.get("model_type") == "RefinedWeb":
        renamed.setdefault("new_decoder_architecture", True)
    return renamed


def to_model_config(config: HfConfig) -> dict[str, Any]:
    config = current_names(config)
    refuse_unless(config, "alibi", False, None)
    refuse_unless(config, "apply_residual_connection_post_layernorm", False)
    heads, hidden = positive(config, "num_attention_heads", 71), positive(config, "hidden_size", 4544)
    is_new = bool(config.get("new_decoder_architecture", False))
    is_parallel = bool(config.get("parallel_attn", True))
    if is_new and not is_parallel:
        raise ConvertError("new_decoder_architecture with parallel_attn = False is not supported")
    groups = positive(config, "num_kv_heads", heads) if is_new else 1 if config.get("multi_query", True) else heads
    num_norms = config.get("num_ln_in_parallel_attn") or (2 if is_new else 1)
    if not is_new and is_parallel and num_norms != 1:
        raise ConvertError("num_ln_in_parallel_attn = 2 needs new_decoder_architecture")
    return {
        "num_layers": positive(config, "num_hidden_layers", 32),
        "hidden_size": hidden,
        "ffn_hidden_size": positive(config, "ffn_hidden_size") if config.get("ffn_hidden_size") else 4 * hidden,
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "max_position_embeddings": positive(config, "max_position_embeddings", 2048),
        "normalization": "LayerNorm",
        "layernorm_epsilon": float(config.get("layer_norm_epsilon", 1e-5)),
        "gated_linear_unit": False,
        "activation": one_of(config, "activation", ACTIVATIONS, "gelu"),
        "add_bias_linear": bool(config.get("bias", False)),
        "parallel_residual": is_parallel,
        "shared_norm": is_parallel and num_norms == 1,
        "share_embeddings_and_output_weights": bool(config.get("tie_word_embeddings", True)),
        "init_method_std": float(config.get("initializer_range", 0.02)),
        **rope_to_model(config),
    }


def to_hf_config(model: ModelConfig) -> HfConfig:
    if model.activation == "silu":
        raise ConvertError("Falcon is converted with gelu only; this model has silu")
    if (
        model.gated_linear_unit
        or model.normalization != "LayerNorm"
        or model.head_dim * model.num_attention_heads != model.hidden_size
    ):
        raise ConvertError(
            "Falcon of transformers has LayerNorm, a plain MLP and heads that divide hidden_size; this model differs"
        )
    is_old_shape = model.query_groups in (1, model.num_attention_heads) and (
        model.shared_norm or not model.parallel_residual
    )
    if not is_old_shape and not model.parallel_residual:
        raise ConvertError("Falcon of transformers has grouped queries with a parallel residual only")
    return {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_kv_heads": model.query_groups,
        "new_decoder_architecture": not is_old_shape,
        "multi_query": model.query_groups == 1 or not is_old_shape,
        "parallel_attn": model.parallel_residual,
        "num_ln_in_parallel_attn": None if is_old_shape else (1 if model.shared_norm else 2),
        "alibi": False,
        "bias": model.add_bias_linear,
        "activation": {"gelu": "gelu", "gelu_tanh": "gelu_new"}[model.activation],
        "max_position_embeddings": model.max_position_embeddings,
        "layer_norm_epsilon": model.layernorm_epsilon,
        "initializer_range": model.init_method_std,
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        **rope_to_hf(model),
    }


FALCON = Family(
    name="falcon",
    model_types=("falcon", "RefinedWebModel", "RefinedWeb"),
    fields=words("""
    vocab_size hidden_size num_hidden_layers num_attention_heads num_ln_in_parallel_attn layer_norm_epsilon
    initializer_range num_kv_heads alibi new_decoder_architecture multi_query parallel_attn bias
    max_position_embeddings ffn_hidden_size activation tie_word_embeddings apply_residual_connection_post_layernorm
    n_layer n_head n_head_kv
    """)
    | ROPE_FIELDS - {"rotary_pct", "rotary_emb_base", "partial_rotary_factor"},
    weights=weights,
    to_model_config=to_model_config,
    to_hf_config=to_hf_config,
    tied_copy="lm_head.weight",
    buffers=(".rotary_emb.inv_freq",),
)
