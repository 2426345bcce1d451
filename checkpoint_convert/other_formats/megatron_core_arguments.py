"""Read the architecture of another tool's torch_dist checkpoint from the settings that the tool saved with it.

Megatron-LM saves its command line as `args` in common.pt or, since megatron-core 0.19, in an object beside the tensors.
Megatron-Bridge saves run_config.yaml. Both name most settings as megatron-core does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from checkpoint_convert.families.llama import biases
from checkpoint_convert.megatron_core.metadata import read_object
from checkpoint_convert.tensors.mapped_file import MappedFile
from checkpoint_convert.tensors.tensor import ConvertError, TensorInfo
from checkpoint_convert.tensors.torch_archive import read_archive
from megatron_train.checkpoint.safe_pickle import Inert
from megatron_train.config.model_config import ModelConfig

COMMON, RUN_CONFIG = "common.pt", "run_config.yaml"
COMMON_OBJECT = "common_state/shard_0_1"
"""Key of the object in which megatron-core 0.19 stores the contents of common.pt, as the only entry of a list."""
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"
LAYER = "decoder.layers.0."
UNSUPPORTED = (
    "multi_latent_attention",
    "num_moe_experts",
    "num_experts",
    "apply_layernorm_1p",
    "layernorm_zero_centered_gamma",
    "rotary_interleaved",
    "qk_l2_norm",
    "squared_relu",
    "heterogeneous_block_specs",
    "heterogeneous_layers_config_path",
    "mtp_num_layers",
)
"""Settings that change the network in a way that this converter does not know."""

Settings = Mapping[str, Any]


def saved_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that another tool saved in its checkpoint, or {} when it saved none.

    Raises ConvertError naming the file.
    """
    if (folder / RUN_CONFIG).is_file():
        return _bridge_settings(folder / RUN_CONFIG)
    if (folder / COMMON).is_file():
        common = read_archive(MappedFile(folder / COMMON), kept=None)
    else:
        stored = read_object(folder, COMMON_OBJECT)
        common = stored[0] if isinstance(stored, list) and stored else None
    arguments = common.get("args") if isinstance(common, dict) else None
    state = arguments.state if isinstance(arguments, Inert) else arguments
    return dict(state) if isinstance(state, dict) else {}


def _bridge_settings(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConvertError(f"{path}: cannot read: {error}") from None
    model = loaded.get("model") if isinstance(loaded, dict) else None
    return model if isinstance(model, dict) else {}


def model_config_of_settings(settings: Settings, infos: Mapping[str, TensorInfo], where: Path) -> ModelConfig:
    """Return the architecture of another tool's checkpoint. Raises ConvertError naming missing or unsupported settings.

    The tensors (`infos`) show which parts the model has, such as biases. The saved settings give the sizes. `where` is
    the folder that messages name.
    """
    wrong = [f"{name} = {settings[name]!r}" for name in UNSUPPORTED if settings.get(name)]
    if wrong:
        raise ConvertError(f"{where}: not supported: {', '.join(wrong)}")
    if settings.get("position_embedding_type", "rope") not in ("rope", "yarn"):
        raise ConvertError(f"{where}: position_embedding_type = {settings['position_embedding_type']!r}; expected rope")
    try:
        model = ModelConfig(**_sizes(settings, infos), **_parts(settings, infos), **_rotary(settings))
        problems = model.problems()
    except KeyError as error:
        raise ConvertError(
            f"{where}: its saved settings lack {error}; name the architecture with --model NAME_OR_YAML"
        ) from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConvertError(f"{where}: its saved settings do not describe a model: {error!r}") from None
    if problems:
        raise ConvertError(f"{where}: " + "; ".join(problems))
    return model


def _sizes(settings: Settings, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    heads, rows = int(settings["num_attention_heads"]), infos[EMBEDDING].shape[0]
    groups = settings.get("num_query_groups") if settings.get("group_query_attention", True) else heads
    window, stated_rows = settings.get("window_size"), int(settings.get("vocab_size") or rows)
    return {
        "num_layers": int(settings["num_layers"]),
        "hidden_size": int(settings["hidden_size"]),
        "ffn_hidden_size": int(settings.get("ffn_hidden_size") or 4 * int(settings["hidden_size"])),
        "num_attention_heads": heads,
        "num_query_groups": int(groups or heads),
        "kv_channels": int(settings["kv_channels"]) if settings.get("kv_channels") else None,
        "max_position_embeddings": int(settings.get("max_position_embeddings") or settings["seq_length"]),
        "vocab_size": rows,
        "source_vocab_size": min(rows, stated_rows),
        "sliding_window": int(window[0]) + 1 if window and window[0] is not None and int(window[0]) >= 0 else None,
    }


def _parts(settings: Settings, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    epsilon = settings.get("norm_epsilon", settings.get("layernorm_epsilon"))
    has_norm_bias = "decoder.final_layernorm.bias" in infos
    activation = _activation(settings)
    is_gated = bool(settings.get("swiglu") or settings.get("gated_linear_unit"))
    has_bias = f"{LAYER}self_attention.linear_proj.bias" in infos
    has_qkv_bias = f"{LAYER}self_attention.linear_qkv.bias" in infos
    has_qk_norm = f"{LAYER}self_attention.q_layernorm.weight" in infos
    if has_norm_bias and not is_gated:
        family = "gpt_neox"
    elif not has_norm_bias and is_gated:
        family = "qwen3" if has_qk_norm else "qwen2" if has_qkv_bias and not has_bias else "llama"
    else:
        raise ValueError("no supported family has this combination of norm and MLP")
    return {
        "family": family,
        "normalization": "LayerNorm" if has_norm_bias else "RMSNorm",
        "layernorm_epsilon": 1e-5 if epsilon is None else float(epsilon),
        "gated_linear_unit": is_gated,
        "activation": activation,
        **biases(has_bias, f"{LAYER}mlp.linear_fc2.bias" in infos),
        "add_qkv_bias": has_qkv_bias and not has_bias,
        "qk_layernorm": has_qk_norm,
        "share_embeddings_and_output_weights": HEAD not in infos,
        "init_method_std": float(settings.get("init_method_std") or 0.02),
    }


def _activation(settings: Settings) -> str:
    """Return the activation function of the settings, "silu" or "gelu". It is gelu if the settings name none.

    Megatron-Bridge writes it as {_target_: torch.nn.functional.silu}. Raises ValueError for another function.
    """
    if settings.get("swiglu"):
        return "silu"
    function = settings.get("activation_func")
    target = str(function.get("_target_", "")) if isinstance(function, Mapping) else str(function or "gelu")
    name = target.rpartition(".")[2]
    if name not in ("silu", "gelu"):
        raise ValueError(f"activation_func {name!r} is not supported")
    return name


def _rotary(settings: Settings) -> dict[str, Any]:
    stretch = float(
        settings.get("seq_len_interpolation_factor") or settings.get("rotary_seq_len_interpolation_factor") or 1
    )
    if settings.get("position_embedding_type") == "yarn":
        return _yarn(settings)
    is_llama3 = bool(settings.get("use_rope_scaling") or settings.get("rope_scaling"))
    return {
        "rotary_base": float(settings.get("rotary_base") or 10000.0),
        "rotary_percent": float(settings.get("rotary_percent", 1.0)),
        "rope_scaling_type": "llama3" if is_llama3 else "linear" if stretch > 1 else "none",
        "rope_scaling_factor": float(settings.get("rope_scaling_factor") or 8.0) if is_llama3 else stretch,
    }


def _yarn(settings: Settings) -> dict[str, Any]:
    for name, value in (("beta_fast", 32), ("beta_slow", 1), ("correction_range_round_to_int", True)):
        if settings.get(f"yarn_{name}", value) != value:
            raise ValueError(f"yarn_{name} is {settings[f'yarn_{name}']!r}; only {value} is supported")
    scales = settings.get("yarn_mscale"), settings.get("yarn_mscale_all_dim")
    if None not in scales and scales != (1, 0):  # other values change the factor on queries and keys
        raise ValueError(f"yarn_mscale, yarn_mscale_all_dim = {scales} is not supported (only 1, 0)")
    return {
        "rotary_base": float(settings.get("rotary_base") or 10000.0),
        "rope_scaling_type": "yarn",
        "rope_scaling_factor": float(settings["yarn_rotary_scaling_factor"]),
        "rope_original_max_positions": int(settings["yarn_original_max_position_embeddings"]),
    }
