"""Tiny random Hugging Face models, one for each kind of network that the converter knows."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import transformers

COMMON = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
LLAMA = {**COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
NEOX = {**COMMON, "intermediate_size": 64}
MODELS = {
    "llama_gqa": transformers.LlamaConfig(**LLAMA),
    "llama_tied": transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "llama_biases": transformers.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True),
    "llama_attention_bias": transformers.LlamaConfig(**LLAMA, attention_bias=True),
    "llama_mlp_bias": transformers.LlamaConfig(**LLAMA, mlp_bias=True),
    "llama_head_dim": transformers.LlamaConfig(**{**LLAMA, "head_dim": 16, "num_key_value_heads": 4}),
    "llama_rope_linear": transformers.LlamaConfig(
        **LLAMA, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}
    ),
    "llama_rope_llama3": transformers.LlamaConfig(
        **LLAMA,
        rope_parameters={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_theta": 500000.0,
        },
    ),
    "llama_rope_yarn": transformers.LlamaConfig(
        **LLAMA,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 32,
            "rope_theta": 1e4,
        },
    ),
    "llama_rope_dynamic": transformers.LlamaConfig(
        **LLAMA, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
    "mistral": transformers.MistralConfig(**LLAMA, sliding_window=8),
    "qwen2": transformers.Qwen2Config(**LLAMA),
    "qwen2_tied": transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "qwen2_window": transformers.Qwen2Config(**LLAMA, use_sliding_window=True, sliding_window=8, max_window_layers=0),
    "qwen3": transformers.Qwen3Config(**LLAMA, head_dim=16),
    "qwen3_tied": transformers.Qwen3Config(**LLAMA, head_dim=8, tie_word_embeddings=True),
    "neox_parallel": transformers.GPTNeoXConfig(**NEOX),
    "neox_sequential": transformers.GPTNeoXConfig(
        **NEOX, use_parallel_residual=False, rope_parameters={"rope_type": "default", "partial_rotary_factor": 1.0}
    ),
    "neox_no_attention_bias": transformers.GPTNeoXConfig(**NEOX, attention_bias=False),
    "neox_tied": transformers.GPTNeoXConfig(**NEOX, tie_word_embeddings=True, hidden_act="gelu_new"),
    "falcon_7b": transformers.FalconConfig(**COMMON),
    "falcon_7b_untied": transformers.FalconConfig(**COMMON, tie_word_embeddings=False, bias=True),
    "falcon_40b": transformers.FalconConfig(**COMMON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_11b": transformers.FalconConfig(
        **COMMON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, ffn_hidden_size=80
    ),
    "falcon_sequential": transformers.FalconConfig(**COMMON, parallel_attn=False, multi_query=False, bias=True),
}

TRAINABLE = tuple(kind for kind in MODELS if kind != "llama_rope_dynamic")
"""The kinds of network that the trainer can train. The others can only be converted."""


def save_tiny_model(kind: str, folder: Path, dtype: torch.dtype = torch.float32, **changes: object) -> None:
    """Save a model with random weights, norms and biases, so that no two are equal. `changes` are config fields."""
    torch.manual_seed(7)
    config = copy.deepcopy(MODELS[kind])
    config.update(changes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * 0.1 + 1 if "norm" in name or "ln_" in name else noise * 0.15)
    model.to(dtype).save_pretrained(folder)
