"""Flags of Megatron-LLM that the trainer accepts without a setting: some have no effect, others describe the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NO_EFFECT: dict[str, tuple[int, str]] = {
    "use_flash_attn": (0, "attention always uses torch's fused kernels"),
    "no_bias_gelu_fusion": (0, "no fused bias-GELU exists here"),
    "no_bias_dropout_fusion": (0, "no fused bias-dropout exists here"),
    "log_timers_to_tensorboard": (0, "step time is always logged"),
    "variable_seq_lengths": (0, "padded rows always have the length of their micro-batch"),
    "data_type": (1, "shards are always instruction data"),
    "tokenizer_type": (1, "shards are tokenized already; the manifest has what training needs"),
    "vocab_file": (1, "as --tokenizer_type"),
    "vocab_extra_ids_list": (1, "as --tokenizer_type"),
    "model_name": (1, "the architecture comes from the checkpoint or --model"),
    "num_workers": (1, "rows are read from memory-mapped files in the training process"),
    "use_distributed_optimizer": (
        0,
        "always on: fp32 weights and Adam moments are spread over the data-parallel ranks",
    ),
    "DDP_impl": (1, "there is one implementation"),
}
"""Accepted flags of Megatron-LLM that have no effect here: name -> (number of values, reason)."""

ARCHITECTURE: dict[str, tuple[int, Callable[[Any, Any], bool]]] = {
    "use_rms_norm": (0, lambda model, _: model.normalization == "RMSNorm"),
    "no_tie_embed_logits": (0, lambda model, _: not model.share_embeddings_and_output_weights),
    "glu_activation": (
        1,
        lambda model, value: (
            model.gated_linear_unit and {"silu": "swiglu", "gelu": "geglu"}.get(model.activation) == value
        ),
    ),
    "position_embedding_type": (1, lambda model, value: value == "rotary"),
    "layernorm_epsilon": (1, lambda model, value: model.layernorm_epsilon == float(value)),
    "rope_theta": (1, lambda model, value: model.rotary_base == float(value)),
    "rope_scaling_factor": (1, lambda model, value: model.rope_scaling_factor == float(value)),
    "num_layers": (1, lambda model, value: model.num_layers == int(value)),
    "hidden_size": (1, lambda model, value: model.hidden_size == int(value)),
    "ffn_hidden_size": (1, lambda model, value: model.ffn_hidden_size == int(value)),
    "num_attention_heads": (1, lambda model, value: model.num_attention_heads == int(value)),
    "num_attention_heads_kv": (1, lambda model, value: model.query_groups == int(value)),
    "make_vocab_size_divisible_by": (1, lambda model, value: model.make_vocab_size_divisible_by == int(value)),
}
"""Flags of Megatron-LLM that describe the architecture: name -> (number of values, test whether a model agrees).

The architecture comes from the checkpoint or from --model. The test compares it with the flag's value.
"""
