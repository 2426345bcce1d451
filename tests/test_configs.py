"""Every model file and every training file under configs/ loads and validates."""

from __future__ import annotations

import pytest

from megatron_train.config.flags import parse
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate, validate_model
from tests.paths import CONFIGS

MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
RUNS = sorted(path.stem for path in (CONFIGS / "train").glob("*.yaml"))
BASES = {
    "llama2-70b": "llama2_70b",
    "oasst-sft-4": "pythia_12b",
    "redpajama": "redpajama_incite_3b",
    "falcon": "falcon_7b",
    "stablelm": "stablelm_alpha_7b",
}


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
