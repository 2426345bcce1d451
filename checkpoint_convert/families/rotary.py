"""Convert the rotary position fields of config.json, in their old and new spelling, to ModelConfig and back.

transformers 4   rope_theta: 10000.0, rope_scaling: {"type": "linear", "factor": 2.0}
transformers 5   rope_parameters: {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}
"""

from __future__ import annotations

import math
from typing import Any

from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig

ROPE_FIELDS = frozenset(
    {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rotary_pct", "rotary_emb_base"}
)
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Settings of rope type llama3, besides its factor, in Llama 3.1 to 3.3.

megatron-core has these values built in, so other values are refused.
"""
YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
"""transformers' default values of settings of rope type yarn. Other values are refused."""


def rope_to_model(config: dict[str, Any], default_percent: float | None = None) -> dict[str, Any]:
    """Convert the rotary fields of config.json to fields of ModelConfig.

    `default_percent` is the share (0 to 1) of rotated channels in a head when config.json states none. None means that
    the family rotates whole heads. Raises ConvertError for an unknown rope type, an unsupported setting, and two
    spellings that disagree.
    """
    _refuse_two_rules(config)
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if default_percent is None and rope.get("partial_rotary_factor", 1.0) != 1.0:
        percent = rope["partial_rotary_factor"]
        raise ConvertError(f"partial_rotary_factor = {percent!r} is not supported: transformers rotates whole heads")
    stated = (rope.pop("rope_theta", None), config.get("rope_theta"), config.get("rotary_emb_base"), 10000.0)
    base = next(value for value in stated if value is not None)
    old_percent = config.get("rotary_pct", config.get("partial_rotary_factor", default_percent or 1.0))
    percent = rope.pop("partial_rotary_factor", old_percent)
    older, newer = rope.pop("type", None), rope.pop("rope_type", None)
    kind = newer or older or "default"
    scaling: dict[str, Any] = {}
    if kind == "linear":
        scaling = {"rope_scaling_type": "linear", "rope_scaling_factor": float(rope.pop("factor", 1.0))}
    elif kind == "llama3":
        scaling = {"rope_scaling_type": "llama3", "rope_scaling_factor": float(rope.pop("factor", 8.0))}
        for key, value in LLAMA3.items():
            if rope.pop(key, value) != value:
                raise ConvertError(f"rope_parameters.{key} is not {value}: only the rule of Llama 3.1 is supported")
    elif kind in ("yarn", "dynamic"):
        scaling = _stretched(kind, rope)
    elif kind != "default":
        raise ConvertError(f"rope type {kind!r} is not supported (only default, linear, llama3, yarn, dynamic)")
    rest = {
        key: value for key, value in rope.items() if value is not None and key != "original_max_position_embeddings"
    }
    if rest and rest != {"factor": 1.0}:
        raise ConvertError(f"rotary settings {rest} are not supported with rope type {kind!r}")
    return {"rotary_base": float(base), "rotary_percent": float(percent), **scaling}


def _stretched(kind: str, rope: dict[str, Any]) -> dict[str, Any]:
    """Remove the settings of rope type yarn or dynamic from `rope`, and return them as fields of ModelConfig.

    Raises ConvertError for an unsupported value.
    """
    stated, original = rope.pop("factor", None), rope.pop("original_max_position_embeddings", None)
    if stated is None:
        raise ConvertError(f"rope type {kind!r} lacks its factor")
    factor = float(stated)
    rope.pop("finetuned", None)  # a key of the first YaRN models, which transformers does not read
    defaults = {**YARN, "attention_factor": 0.1 * math.log(factor) + 1} if kind == "yarn" and factor >= 1 else {}
    for key, value in defaults.items():
        found = rope.pop(key, None)
        if found is not None and not math.isclose(found, value):
            raise ConvertError(f"rope_parameters.{key} is {found}; only transformers' default {value:g} is supported")
    return {
        "rope_scaling_type": kind,
        "rope_scaling_factor": factor,
        "rope_original_max_positions": None if original is None else int(original),
    }


def _refuse_two_rules(config: dict[str, Any]) -> None:
    """Raise ConvertError when rope_scaling and rope_parameters disagree, because each reader uses only one of them."""
    if not config.get("rope_scaling") or not config.get("rope_parameters"):
        return
    old, new = dict(config["rope_scaling"]), dict(config["rope_parameters"])
    for rope in (old, new):
        rope["rope_type"] = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    different = sorted(key for key in old.keys() & new.keys() if old[key] != new[key])
    if different:
        keys = ", ".join(f"{key} ({old[key]!r}, {new[key]!r})" for key in different)
        raise ConvertError(f"rope_scaling and rope_parameters disagree in {keys}; remove the wrong one")


def rope_to_hf(model: ModelConfig) -> dict[str, Any]:
    """Return the rotary fields of config.json in both spellings, for transformers 4 and 5."""
    scaling: dict[str, Any] = {}
    if model.rope_scaling_type == "linear":
        scaling = {"rope_type": "linear", "factor": model.rope_scaling_factor}
    elif model.rope_scaling_type == "llama3":
        scaling = {"rope_type": "llama3", "factor": model.rope_scaling_factor, **LLAMA3}
    elif model.rope_scaling_type in ("yarn", "dynamic"):
        scaling = {"rope_type": model.rope_scaling_type, "factor": model.rope_scaling_factor}
        if model.rope_original_max_positions is not None:
            scaling["original_max_position_embeddings"] = model.rope_original_max_positions
    parameters = {"rope_type": "default", **scaling, "rope_theta": model.rotary_base}
    if model.rotary_percent != 1.0 or model.family == "gpt_neox":
        parameters["partial_rotary_factor"] = model.rotary_percent
    old = {
        "rope_theta": model.rotary_base,
        "rope_scaling": {**scaling, "type": scaling["rope_type"]} if scaling else None,
    }
    return {**old, "rope_parameters": parameters}
