"""SHARED, torch-free: Megatron-LM's arguments inside a checkpoint, as its --use-checkpoint-args reads them.

    common = common_state(model_config, iteration=500)     # {"args": Namespace, "checkpoint_version": 3.0, ...}

Megatron-LM loads the weights of such a checkpoint with --use-checkpoint-args --finetune. Its optimizer scheduler and
random states are its own, so a run of Megatron-LM cannot resume from our training state.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout

CHECKPOINT_VERSION = 3.0
"""Megatron-LM's version number of checkpoints with the current order of rows in query_key_value weights."""


def common_state(model: ModelConfig, iteration: int, layout: ParallelLayout | None = None) -> dict[str, Any]:
    """Return the entries that Megatron-LM expects in a checkpoint's common.pt: its arguments, version and iteration.

    `layout` is the parallel layout of the run that saves the checkpoint; None means one process.
    """
    arguments = megatron_arguments(model, layout or ParallelLayout(1))
    return {"args": arguments, "checkpoint_version": CHECKPOINT_VERSION, "iteration": iteration}


def megatron_arguments(model: ModelConfig, layout: ParallelLayout) -> Namespace:
    """Return the architecture under Megatron-LM's argument names. Every value is a plain number, string or bool."""
    return Namespace(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        group_query_attention=model.query_groups != model.num_attention_heads,
        num_query_groups=model.query_groups,
        kv_channels=model.head_dim,
        seq_length=model.max_position_embeddings,
        max_position_embeddings=model.max_position_embeddings,
        padded_vocab_size=model.padded_vocab,
        vocab_size=model.vocab_size,
        make_vocab_size_divisible_by=model.make_vocab_size_divisible_by,
        normalization=model.normalization,
        norm_epsilon=model.layernorm_epsilon,
        apply_layernorm_1p=False,
        swiglu=model.is_swiglu,
        squared_relu=False,
        add_bias_linear=model.add_bias_linear,
        add_qkv_bias=model.add_qkv_bias,
        qk_layernorm=model.qk_layernorm,
        add_position_embedding=False,
        position_embedding_type="yarn" if model.rope_scaling_type == "yarn" else "rope",
        use_rotary_position_embeddings=True,
        rotary_base=int(model.rotary_base) if model.rotary_base == int(model.rotary_base) else model.rotary_base,
        rotary_percent=model.rotary_percent,
        rotary_interleaved=False,
        rotary_seq_len_interpolation_factor=(
            model.rope_scaling_factor if model.rope_scaling_type == "linear" else None
        ),
        **(yarn_arguments(model) if model.rope_scaling_type == "yarn" else {}),
        use_rope_scaling=model.rope_scaling_type == "llama3",
        rope_scaling_factor=model.rope_scaling_factor,
        window_size=(model.sliding_window - 1, 0) if model.sliding_window else None,
        untie_embeddings_and_output_weights=not model.share_embeddings_and_output_weights,
        apply_query_key_layer_scaling=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        init_method_std=model.init_method_std,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        ckpt_format="torch_dist",
        no_save_rng=True,
    )


def yarn_arguments(model: ModelConfig) -> dict[str, Any]:
    """Return the settings of rope type yarn under the names that megatron-core's GPTModel reads in its configuration.

    The values besides factor and original length are transformers' default values.
    """
    return {
        "yarn_rotary_scaling_factor": model.rope_scaling_factor,
        "yarn_original_max_position_embeddings": model.original_positions,
        "yarn_beta_fast": 32.0,
        "yarn_beta_slow": 1.0,
        "yarn_mscale": None,
        "yarn_mscale_all_dim": None,
        "yarn_correction_range_round_to_int": True,
    }
