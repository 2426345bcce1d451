"""The shipped architectures of Qwen2, Qwen2.5 and Qwen3 are those of transformers' models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from checkpoint_convert.families import FAMILIES
from checkpoint_convert.families.family import model_config_of
from checkpoint_convert.tensors.tensor import ConvertError
from megatron_train.config.model_config import ModelConfig
from tests.paths import CONFIGS

NAMES = sorted(path.stem for path in (CONFIGS / "model").glob("qwen*.yaml"))
QWEN2: dict[str, Any] = {"model_type": "qwen2", "num_hidden_layers": 4, "num_attention_heads": 32}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_architectures_have_the_parameters_of_transformers(name: str) -> None:
    model = ModelConfig.load(CONFIGS / "model" / f"{name}.yaml")
    config = FAMILIES[model.family].hf_config(model)
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**{key: value for key, value in config.items() if key != "architectures"})
        )

    assert sum(parameter.numel() for parameter in theirs.parameters()) == model.num_parameters()


def test_a_window_needs_use_sliding_window_and_every_layer() -> None:
    def window(**fields: Any) -> int | None:
        return model_config_of(
            QWEN2 | {"num_key_value_heads": 4} | fields, FAMILIES, Path("config.json")
        ).sliding_window

    assert window(sliding_window=8) is None
    assert window(use_sliding_window=False, sliding_window=8, max_window_layers=0) is None
    assert window(use_sliding_window=True, sliding_window=8, max_window_layers=4) is None
    assert window(use_sliding_window=True, sliding_window=8, max_window_layers=0) == 8
    with pytest.raises(ConvertError, match=r"max_window_layers = 2"):
        window(use_sliding_window=True, sliding_window=8, max_window_layers=2)
