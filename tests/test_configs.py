"""Every YAML file under configs/ loads and validates, and every card has its own."""

from __future__ import annotations

import pytest

from megatron_train.config.flags import parse
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate, validate_model
from pretokenizer.config.sections import load_sections, merge_sections
from pretokenizer.config.settings import make_config
from tests.paths import CONFIGS

MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
RUNS = sorted(path.stem for path in (CONFIGS / "train").glob("*.yaml"))
CARDS = (
    "llama2-70b-oasst-sft-v10_stage1",
    "llama2-70b-oasst-sft-v10_stage2",
    "oasst-sft-4-pythia-12b-epoch-3.5",
    "redpajama-3b-chat",
    "falcon-7b-sft-top1-696",
    "stablelm-7b-sft-v7-epoch-3",
)
BASES = {
    "llama2-70b": "llama2_70b",
    "oasst-sft-4": "pythia_12b",
    "redpajama": "redpajama_incite_3b",
    "falcon": "falcon_7b",
    "stablelm": "stablelm_alpha_7b",
}


def test_the_promised_files_are_there() -> None:
    assert set(MODELS) >= {*BASES.values(), "tiny_llama", "tiny_gpt_neox", "tiny_falcon"}
    assert set(RUNS) >= {"demo_stage1", "demo_stage2", *CARDS, *(f"{card}_packed" for card in CARDS)}


@pytest.mark.parametrize("name", MODELS)
def test_model_files_load(name: str) -> None:
    assert ModelConfig.load(CONFIGS / "model" / f"{name}.yaml").num_parameters() > 1_000_000


@pytest.mark.parametrize("name", RUNS)
def test_training_files_validate(name: str) -> None:
    command = parse(["--config", str(CONFIGS / "train" / f"{name}.yaml")])
    parallel = command.config.parallel
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    for replicas in (1,) if name.startswith("demo") else (1, 2):
        layout = ParallelLayout(tp * pp * replicas, tp, pp, parallel.virtual_pipeline_model_parallel_size or 1)
        validate(command, layout)
        base = next((model for card, model in BASES.items() if name.startswith(card)), None)
        if base:
            model = ModelConfig.load(CONFIGS / "model" / f"{base}.yaml")
            validate_model(command, model.with_positions(command.config.model.max_position_embeddings), layout)


@pytest.mark.parametrize("name", RUNS)
def test_training_files_name_files_of_this_repository_only(name: str) -> None:
    model = parse(["--config", str(CONFIGS / "train" / f"{name}.yaml")]).config.model.model
    assert model is None or (CONFIGS.parent / model).is_file()


def data_sections() -> list[str]:
    sections = load_sections()
    return sorted(
        name for name in sections if "datasets" in sections[name].values or "sections" in sections[name].values
    )


@pytest.mark.parametrize("name", data_sections())
def test_pretokenizer_sections_load_with_every_fitting_tokenizer(name: str) -> None:
    sections = load_sections()
    config, _ = make_config(merge_sections(sections, [name, "llama2"]), name)
    assert config.datasets
    assert config.output_dir


def test_the_cards_have_a_section_under_their_own_name() -> None:
    assert set(load_sections()) >= {
        "defaults",
        "llama2",
        "gpt_neox",
        "falcon",
        "sample",
        "falcon_oasst",
        "gpt_neox_oasst",
        "oasst_pre10",
        "oasst_pre10_min25",
        "oasst_top1",
        "falcon-7b-sft-top1-696",
        "oasst-sft-4-pythia-12b-epoch-3.5",
        "redpajama-3b-chat",
        "stablelm-7b-sft-v7-epoch-3",
    }
