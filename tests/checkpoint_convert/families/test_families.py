"""The config.json of each card's model gives the literal architecture, and the architecture gives it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import check_fields, model_config_of
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig
from tests.paths import CONFIGS

MODELS = CONFIGS / "model"
PATH = Path("config.json")
LLAMA2_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 8192,
    "initializer_range": 0.02,
    "intermediate_size": 28672,
    "max_position_embeddings": 4096,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 32000,
}
PYTHIA_12B = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 20480,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 40,
    "num_hidden_layers": 36,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50688,
}
FALCON_7B = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["FalconForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"},
    "bias": False,
    "hidden_size": 4544,
    "layer_norm_epsilon": 1e-05,
    "model_type": "falcon",
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "vocab_size": 65024,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 32000,
}
LLAMA31_8B = {
    "model_type": "llama",
    "attention_bias": False,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}


def model_of(config: dict[str, Any]) -> ModelConfig:
    return model_config_of(config, FAMILIES, PATH)


@pytest.mark.parametrize(
    ("config", "name", "parameters"),
    [
        (LLAMA2_70B, "llama2_70b", 68_976_648_192),
        (PYTHIA_12B, "pythia_12b", 11_846_072_320),
        (FALCON_7B, "falcon_7b", 6_921_720_704),
    ],
)
def test_the_cards_models_have_the_architectures_of_configs(config: dict[str, Any], name: str, parameters: int) -> None:
    model, ours = model_of(config), ModelConfig.load(MODELS / f"{name}.yaml")
    rows = {"vocab_size", "source_vocab_size", "padded_vocab_size", "make_vocab_size_divisible_by"}

    assert model.num_parameters() == parameters
    assert {key: value for key, value in vars(model).items() if key not in rows} == {
        key: value for key, value in vars(ours).items() if key not in rows
    }


@pytest.mark.parametrize("config", [LLAMA2_70B, PYTHIA_12B, FALCON_7B, MISTRAL_7B, LLAMA31_8B])
def test_a_config_written_again_means_the_same(config: dict[str, Any]) -> None:
    model = model_of(config)
    written = FAMILIES[model.family].to_hf_config(model) | {"vocab_size": model.vocab_size}

    assert model_of(written) == model
    assert written["model_type"] == config["model_type"]


OLD_FALCON = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "bias": False,
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "vocab_size": 65024,
}
"""Fields that both models' first files have."""


def test_the_first_files_of_falcon_7b() -> None:
    old = OLD_FALCON | {"model_type": "RefinedWebModel", "hidden_size": 4544, "n_layer": 32, "n_head": 71}
    old |= {"multi_query": True, "parallel_attn": True}

    check_fields(old, FAMILIES, PATH)
    assert model_of(old) == model_of(FALCON_7B)


def test_the_first_files_of_falcon_40b() -> None:
    old = OLD_FALCON | {"model_type": "RefinedWeb", "hidden_size": 8192, "n_layer": 60, "n_head": 128, "n_head_kv": 8}
    old |= {"parallel_attn": True}

    check_fields(old, FAMILIES, PATH)
    model = model_of(old)
    assert (model.num_layers, model.num_attention_heads, model.query_groups) == (60, 128, 8)
    assert (model.parallel_residual, model.shared_norm) == (True, False)


def test_both_rope_spellings_are_written() -> None:
    written = FAMILIES["llama"].to_hf_config(model_of(LLAMA31_8B))
    rule = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

    assert written["rope_theta"] == 500000.0
    assert written["rope_scaling"] == {"rope_type": "llama3", "type": "llama3", **rule}
    assert written["rope_parameters"] == {"rope_type": "llama3", "rope_theta": 500000.0, **rule}


def test_the_rotary_base_of_an_old_neox_is_kept_in_every_spelling() -> None:
    model = model_of(PYTHIA_12B | {"rotary_emb_base": 25000})
    written = FAMILIES["gpt_neox"].to_hf_config(model)

    assert model.rotary_base == 25000.0
    assert (written["rotary_emb_base"], written["rope_theta"], written["rotary_pct"]) == (25000.0, 25000.0, 0.25)
    assert written["rope_parameters"] == {"rope_type": "default", "rope_theta": 25000.0, "partial_rotary_factor": 0.25}


def test_sliding_window_makes_a_mistral() -> None:
    model = model_of(MISTRAL_7B)

    assert (model.sliding_window, model.query_groups) == (4096, 8)
    assert FAMILIES["llama"].to_hf_config(model)["architectures"] == ["MistralForCausalLM"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LLAMA2_70B | {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope type 'longrope' is not supported"),
        (
            LLAMA2_70B | {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}},
            "'yarn' lacks its factor",
        ),
        (LLAMA2_70B | {"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 16}}, "beta_fast is 16; only .* 32"),
        (LLAMA2_70B | {"rope_scaling": {"type": "yarn", "factor": 4, "mscale": 0.7}}, "{'mscale': 0.7} are not"),
        (LLAMA31_8B | {"rope_scaling": {"rope_type": "llama3", "low_freq_factor": 2.0}}, "only the rule of Llama 3.1"),
        (FALCON_7B | {"alibi": True}, "alibi = True is not supported"),
        (FALCON_7B | {"num_ln_in_parallel_attn": 2}, "needs new_decoder_architecture"),
        (LLAMA2_70B | {"num_hidden_layers": 0}, "num_hidden_layers is 0; expected a whole number from 1 to"),
        (LLAMA2_70B | {"num_hidden_layers": "80"}, "num_hidden_layers is '80'; expected a whole number"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        model_of(config)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("falcon", {"sliding_window": 8}, "cannot have sliding_window = 8"),
        ("gpt_neox", {"sliding_window": 8, "add_bias_linear": True}, "cannot have sliding_window = 8"),
        ("gpt_neox", {"add_qkv_bias": True, "add_bias_linear": True}, "cannot have add_qkv_bias = True"),
        ("falcon", {"add_qkv_bias": True}, "cannot have add_qkv_bias = True"),
        ("falcon", {"rotary_percent": 0.5}, r"partial_rotary_factor = 0\.5 is not supported"),
        ("falcon", {"activation": "silu"}, "Falcon is converted with gelu only; this model has silu"),
        ("gpt_neox", {"activation": "silu", "add_bias_linear": True}, "GPT-NeoX is converted with gelu only"),
    ],
)
def test_what_a_family_would_lose_is_refused(family: Any, changes: dict[str, Any], message: str) -> None:
    sizes = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4, "vocab_size": 400}
    kind = {"normalization": "LayerNorm", "gated_linear_unit": False, "activation": "gelu", "parallel_residual": True}
    kind |= {"shared_norm": True, "num_query_groups": 1} if family == "falcon" else {}
    model = ModelConfig(family=family, max_position_embeddings=64, **{**sizes, **kind, **changes})

    with pytest.raises(ConvertError, match=message):
        FAMILIES[family].hf_config(model)


@pytest.mark.parametrize("config", [LLAMA2_70B, FALCON_7B])
def test_a_part_of_a_head_is_rotated_in_no_llama_or_falcon(config: dict[str, Any]) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}

    with pytest.raises(ConvertError, match=r"config\.json: partial_rotary_factor = 0\.5 is not supported"):
        model_of({**config, "rope_parameters": rope})


def test_two_rotary_rules_must_agree() -> None:
    scaling, parameters = {"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2, "rope_theta": 1e4}

    assert model_of({**LLAMA2_70B, "rope_scaling": scaling, "rope_parameters": parameters}).rope_scaling_factor == 2.0
    message = r"rope_scaling and rope_parameters disagree in factor \(4\.0, 2\); remove the wrong one"
    with pytest.raises(ConvertError, match=message):
        model_of({**LLAMA2_70B, "rope_scaling": {**scaling, "factor": 4.0}, "rope_parameters": parameters})


def test_yarn_with_transformers_default_values() -> None:
    """The first YaRN models and newer ones state values that transformers would use anyway."""
    rope = {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": True}
    explicit = {"beta_fast": 32, "beta_slow": 1.0, "attention_factor": 1.2772588722239782, "truncate": True}

    first, second = (
        model_of({**LLAMA2_70B, "rope_scaling": rope}),
        model_of({**LLAMA2_70B, "rope_scaling": rope | explicit}),
    )

    assert (first.rope_scaling_type, first.rope_scaling_factor, first.original_positions) == ("yarn", 16.0, 4096)
    assert second == first
    assert (
        model_of({**LLAMA2_70B, "rope_scaling": {"type": "yarn", "factor": 2.0}})
        .with_positions(8192)
        .original_positions
        == 4096
    )
