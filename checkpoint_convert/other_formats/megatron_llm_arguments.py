"""Read and write the arguments in Megatron-LLM's checkpoints, which state architecture and added tokens.

model = model_config_of_arguments(weights)                                 # of a checkpoint that was read
arguments = saved_arguments(model, rows=32128, layout=layout, tokens=tokenizer_arguments(tokenizer_dir))
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoint_convert.mapping.options import ImportOptions
from checkpoint_convert.other_formats.megatron_llm_reader import MegatronLlmWeights
from checkpoint_convert.other_formats.megatron_llm_table import EMBEDDING, HEAD
from checkpoint_convert.output.report import warn
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.checkpoint.safe_pickle import Inert
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from pretokenizer.tokenizer.load import read_tokenizer_spec

ROWS_DIVISIBLE_BY = 128
MLP = "encoder.layers.0.mlp.dense_4h_to_h.weight"


def model_config_of_arguments(source: MegatronLlmWeights) -> ModelConfig:
    """Return the architecture that the arguments in a Megatron-LLM checkpoint describe.

    Warn about a norm epsilon or rotary base that they lack. Raises ConvertError naming values that do not fit.
    """
    where, arguments = source.folder, source.arguments
    family = _family_of(arguments, where)
    for name, default in (("layernorm_epsilon", 1e-5), ("rope_theta", 10000.0)):
        if arguments.get(name) is None:
            warn(f"{where}: its arguments lack {name}; using {default:g}")
    try:
        model = ModelConfig(
            **_shape_fields(source),
            **(_llama_fields() if family == "llama" else _falcon_fields(arguments)),
            **_rotary_fields(arguments),
            layernorm_epsilon=float(arguments.get("layernorm_epsilon") or 1e-5),
            add_bias_linear=bool(arguments.get("use_bias")),
            sliding_window=arguments.get("sliding_window_size"),
            share_embeddings_and_output_weights=HEAD not in source.infos,
        )
        problems = model.problems()
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConvertError(f"{where}: its arguments do not describe a model: {error!r}") from None
    if problems:
        raise ConvertError(f"{where}: " + "; ".join(problems))
    return model


def _family_of(arguments: Mapping[str, Any], where: Path) -> str:
    """Return the model family of the arguments, `llama` or `falcon`. Raises ConvertError for any other model."""
    get = arguments.get
    is_llama = bool(get("use_rms_norm")) and get("glu_activation") == "swiglu" and not get("parallel_attn")
    is_falcon = bool(get("parallel_attn")) and get("glu_activation") is None and not get("use_rms_norm")
    rotary = get("position_embedding_type", "rotary")
    if isinstance(rotary, Inert):  # a member of Megatron-LLM's enum, in which rotary is 1
        rotary = "rotary" if rotary.args == (1,) else "absolute"
    if not (is_llama or is_falcon) or rotary != "rotary" or get("use_post_ln"):
        raise ConvertError(
            f"{where}: its arguments describe neither a Llama nor a Falcon model (norm, GLU, rotary, attention)"
        )
    return "llama" if is_llama else "falcon"


def _shape_fields(source: MegatronLlmWeights) -> dict[str, Any]:
    get, rows = source.arguments.get, source.infos[EMBEDDING].shape[0]
    return {
        "num_layers": int(get("num_layers") or get("encoder_num_layers") or 0),
        "hidden_size": int(get("hidden_size") or 0),
        "ffn_hidden_size": source.infos[MLP].shape[1],
        "num_attention_heads": int(get("num_attention_heads") or 0),
        "kv_channels": int(get("kv_channels") or 0) or None,
        "num_query_groups": int(get("num_attention_heads_kv") or get("num_attention_heads") or 0),
        "vocab_size": rows,
        "source_vocab_size": rows,
        "max_position_embeddings": int(get("max_position_embeddings") or get("seq_length") or 0),
    }


def _llama_fields() -> dict[str, Any]:
    return {"family": "llama", "normalization": "RMSNorm", "gated_linear_unit": True, "activation": "silu"}


def _falcon_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "family": "falcon",
        "normalization": "LayerNorm",
        "gated_linear_unit": False,
        "activation": "gelu",
        "parallel_residual": True,
        "shared_norm": not arguments.get("parallel_layernorm"),
    }


def _rotary_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    factor = float(arguments.get("rope_scaling_factor") or 1.0)
    return {
        "rotary_base": float(arguments.get("rope_theta") or 10000.0),
        "rope_scaling_type": "linear" if factor > 1 else "none",
        "rope_scaling_factor": factor,
    }


def with_recorded_tokens(options: ImportOptions, arguments: Mapping[str, Any], folder: Path) -> ImportOptions:
    """Return the import options with the added tokens in the saved `arguments` of a run in `folder`.

    Tokens of the command line, which `options` hold, take precedence. Warn if the two differ. Quotes around the
    recorded list are removed, because launch scripts pass some on.
    """
    text = str(arguments.get("vocab_extra_ids_list") or "").strip().strip("\"'")
    recorded, new_tokens = tuple(token for token in text.split(",") if token), arguments.get("new_tokens") is not False
    if not recorded:
        return options
    if not options.extra_special_tokens:
        options = dataclasses.replace(
            options, extra_special_tokens=recorded, new_tokens=options.new_tokens and new_tokens
        )
    if (options.extra_special_tokens, options.new_tokens) != (recorded, new_tokens):
        flags = f"--vocab_extra_ids_list {text}" + ("" if new_tokens else " --no_new_tokens")
        warn(f"{folder}: was trained with {flags}; the tokens of the command line differ, and their ids may too")
    return options


def tokenizer_arguments(folder: Path) -> dict[str, Any]:
    """Return the added tokens of a checkpoint's tokenizer folder as arguments of Megatron-LLM.

    With these, Megatron-LLM gives the tokens the same ids. Return {} when the folder does not exist, and with a warning
    when a token has a comma.
    """
    if not folder.is_dir():
        return {}
    spec = read_tokenizer_spec(folder)
    tokens = spec["extra_special_tokens"]
    if any("," in token for token in tokens):
        warn(
            f"{folder}: --vocab_extra_ids_list of Megatron-LLM cannot contain a token with a comma, so no added token "
            "is recorded"
        )
        return {}
    return {"vocab_extra_ids_list": ",".join(tokens) or None, "new_tokens": bool(spec["new_tokens"])}


def saved_arguments(model: ModelConfig, rows: int, layout: ParallelLayout, tokens: Mapping[str, Any]) -> Namespace:
    """Return the arguments to save in a checkpoint for Megatron-LLM.

    `rows` is the number of vocabulary rows with padding, and `tokens` the result of tokenizer_arguments. When
    Megatron-LLM loads the checkpoint, it takes some arguments over (--use_checkpoint_args) and compares others.
    """
    is_llama = model.family == "llama"
    return Namespace(
        num_layers=model.num_layers,
        encoder_num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_attention_heads_kv=model.query_groups,
        kv_channels=model.head_dim,
        max_position_embeddings=model.max_position_embeddings,
        seq_length=model.max_position_embeddings,
        padded_vocab_size=rows,
        make_vocab_size_divisible_by=ROWS_DIVISIBLE_BY,
        tokenizer_type="SentencePieceTokenizer" if is_llama else "FalconTokenizer",
        **tokens,
        glu_activation="swiglu" if is_llama else None,
        use_rms_norm=is_llama,
        layernorm_epsilon=model.layernorm_epsilon,
        use_bias=model.add_bias_linear,
        parallel_attn=model.parallel_residual,
        parallel_layernorm=model.parallel_residual and not model.shared_norm,
        tie_embed_logits=model.share_embeddings_and_output_weights,
        position_embedding_type="rotary",
        rope_theta=model.rotary_base,
        rope_scaling_factor=model.rope_scaling_factor,
        sliding_window_size=model.sliding_window,
        hidden_dropout=0.0,
        bias_gelu_fusion=False,
        bias_droput_fusion=False,
        data_parallel_random_init=False,
        consumed_train_samples=0,
        consumed_valid_samples=0,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        iteration="release",
    )
