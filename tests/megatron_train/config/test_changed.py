"""The settings that differ from the defaults are listed."""

from __future__ import annotations

from megatron_train.config.changed import changed_settings


def test_defaults_are_left_out_and_lists_compare_with_tuples() -> None:
    settings = {"lr": 3e-4, "packing": False, "loss_roles": ["assistant"], "train_data_path": ["shards/mix-train"]}
    assert changed_settings(settings) == {"lr": 3e-4, "train_data_path": ["shards/mix-train"]}
