"""SHARED, torch-free: the settings of a run that differ from the trainer's defaults, for model cards and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_train.config.settings import TrainConfig


def changed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in `settings` (the contents of a train_config.yaml) that differ from the trainer's defaults.

    >>> changed_settings({"lr": 3e-4, "packing": False, "train_data_path": ["shards/mix-train"]})
    {'lr': 0.0003, 'train_data_path': ['shards/mix-train']}
    """
    defaults: dict[str, Any] = {}
    for group in vars(TrainConfig()).values():
        defaults |= vars(group)
    return {name: value for name, value in settings.items() if _comparable(value) != defaults.get(name)}


def _comparable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
