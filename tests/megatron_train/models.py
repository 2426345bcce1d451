"""Tiny architectures, one for each kind of model that the trainer builds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megatron_train.config.model_config import ModelConfig
from tests.conftest import TINY_LLAMA

LLAMA = TINY_LLAMA
_BIASED: dict[str, Any] = {
    "num_query_groups": 4,
    "ffn_hidden_size": 256,
    "normalization": "LayerNorm",
    "gated_linear_unit": False,
    "activation": "gelu",
    "add_bias_linear": True,
    "rotary_percent": 0.25,
}
MODELS: dict[str, ModelConfig] = {
    "llama": LLAMA,
    "qwen2": replace(LLAMA, family="qwen2", add_qkv_bias=True),
    "qwen3": replace(LLAMA, family="qwen3", qk_layernorm=True, kv_channels=32),
    "neox_parallel": replace(LLAMA, family="gpt_neox", parallel_residual=True, **_BIASED),
    "neox_sequential": replace(LLAMA, family="gpt_neox", **_BIASED | {"activation": "gelu_tanh"}),
    "falcon_7b": replace(
        LLAMA,
        family="falcon",
        parallel_residual=True,
        shared_norm=True,
        share_embeddings_and_output_weights=True,
        **_BIASED | {"add_bias_linear": False, "num_query_groups": 1, "rotary_percent": 1.0},
    ),
    "falcon_40b": replace(
        LLAMA,
        family="falcon",
        parallel_residual=True,
        share_embeddings_and_output_weights=True,
        **_BIASED | {"add_bias_linear": False, "num_query_groups": 2, "rotary_percent": 1.0},
    ),
}
