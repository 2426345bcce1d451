from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_train.config.model_config import ModelConfig, pad_vocab_size
from pretokenizer.config.yaml_config import ConfigError
from tests.megatron_train.models import LLAMA, MODELS
from tests.paths import CONFIGS

MODEL_FILES = CONFIGS / "model"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama2_70b", 68_976_648_192),
        ("pythia_12b", 11_846_072_320),
        ("redpajama_incite_3b", 2_775_864_320),
        ("falcon_7b", 6_921_720_704),
        ("stablelm_alpha_7b", 7_868_755_968),
        ("llama_7b", 6_738_415_616),
        ("llama2_7b", 6_738_415_616),
        ("llama2_13b", 13_015_864_320),
        ("llama3_8b", 8_030_261_248),
        ("llama3.1_8b", 8_030_261_248),
        ("codellama_13b", 13_016_028_160),
        ("codellama_34b", 33_743_970_304),
        ("mistral_7b", 7_241_732_096),
        ("gpt_neox_20b", 20_554_567_680),
        ("falcon_40b", 41_303_293_952),
    ],
)
def test_parameters_of_published_models(name: str, parameters: int) -> None:
    assert ModelConfig.load(MODEL_FILES / f"{name}.yaml").num_parameters() == parameters


@pytest.mark.parametrize("kind", MODELS)
def test_num_parameters_counts_what_megatron_core_allocates(kind: str, single_process: None) -> None:
    from megatron_train.config.settings import TrainConfig
    from megatron_train.model.build import build_model
    from megatron_train.parallel.distributed import init_distributed

    config = TrainConfig()
    init_distributed(config.parallel, 0)
    model = MODELS[kind]
    (chunk,) = build_model(model, config)
    assert sum(parameter.numel() for parameter in chunk.parameters()) == model.num_parameters(model.padded_vocab)


def test_padded_vocabulary_never_depends_on_the_layout() -> None:
    assert pad_vocab_size(32_007, 128) == 32_128
    assert pad_vocab_size(32_128, 128) == 32_128
    assert replace(LLAMA, vocab_size=32_007, padded_vocab_size=None).padded_vocab == 32_128


def test_save_and_load_give_the_same(tmp_path: Path) -> None:
    LLAMA.save(tmp_path / "model_config.yaml")
    assert ModelConfig.load(tmp_path / "model_config.yaml") == LLAMA


def test_defaults_are_filled_in() -> None:
    model = ModelConfig("llama", 2, 64, 96, 4, 100, 32)
    assert (model.query_groups, model.head_dim, model.padded_vocab) == (4, 16, 128)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_query_groups": 3}, "num_query_groups 3 does not divide num_attention_heads 4"),
        ({"num_layers": 0}, "num_layers is 0; it must be at least 1"),
        ({"rotary_percent": 0.0}, "rotary_percent is 0.0; it must be above 0 and at most 1"),
        ({"shared_norm": True}, "shared_norm needs parallel_residual: true"),
        ({"padded_vocab_size": 100}, "padded_vocab_size 100 is below vocab_size 120"),
        ({"rope_scaling_factor": 0.5}, "rope_scaling_factor is 0.5; it must be at least 1"),
    ],
)
def test_an_impossible_architecture_is_refused_with_the_files_name(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    path = tmp_path / "model.yaml"
    replace(LLAMA, **changes).save(path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as error:
        ModelConfig.load(path)
    assert str(error.value) == f"{path}: {problem}"


def test_unknown_keys_and_families_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("family: lama\nnum_layer: 2\n")
    with pytest.raises(ConfigError) as error:
        ModelConfig.load(path)
    assert "'lama' is not one of llama, qwen2, qwen3, gpt_neox, falcon (did you mean 'llama'?)" in str(error.value)
    assert "num_layer: unknown key (did you mean 'num_layers'?)" in str(error.value)
