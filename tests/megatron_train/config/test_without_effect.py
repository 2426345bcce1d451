from __future__ import annotations

from typing import Any

import pytest

from megatron_train.config.flags import OWNER, config_from_settings, parse
from megatron_train.config.settings import TrainConfig
from megatron_train.config.without_effect import CONDITIONS, settings_without_effect
from tests.paths import CONFIGS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "90,10,0", "train_data_path": ["p"]}, "split 90,10,0 has no effect: it divides data_path, which is"),
        ({"pad_to_multiple": 64, "packing": True}, "pad_to_multiple 64 has no effect: packed rows always have seq_"),
        ({"min_lr": 1e-6, "lr_decay_style": "constant"}, "min_lr 1e-06 has no effect: with lr_decay_style constant"),
        ({"eval_interval": 5, "train_data_path": ["p"]}, "eval_interval 5 has no effect: there is no validation data"),
        ({"test_data_path": ["a", "b"], "eval_iters": 0}, "test_data_path a b has no effect: eval_iters 0 turns"),
        ({"sequence_parallel": True}, "sequence_parallel True has no effect: it splits the sequence over tensor-"),
        ({"min_loss_scale": 2.0, "bf16": True}, "min_loss_scale 2.0 has no effect: only fp16 scales the loss"),
        ({"no_load_optim": True, "finetune": True}, "no_load_optim True has no effect: finetune loads the weights"),
        ({"async_save": True}, "async_save True has no effect: it needs --save DIR"),
    ],
)
def test_a_setting_without_effect_is_named_with_the_reason(settings: dict[str, Any], message: str) -> None:
    (found,) = settings_without_effect(config_from_settings(settings, "t"))
    assert found.startswith(message)


def test_conditions_name_settings() -> None:
    assert {name for condition in CONDITIONS for name in condition.settings} <= set(OWNER)


def test_every_setting_of_the_shipped_configurations_has_an_effect() -> None:
    assert settings_without_effect(TrainConfig()) == []
    for path in sorted((CONFIGS / "train").glob("*.yaml")):
        assert settings_without_effect(parse(["--config", str(path)]).config) == [], path
