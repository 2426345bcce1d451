"""Settings of a run that have no effect because of its other settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

from megatron_train.config.changed import changed_settings
from megatron_train.config.settings import TrainConfig


class Condition(NamedTuple):
    """Settings that have an effect only in a run for whose configuration `is_met` returns true.

    `reason` is the end of a message about a run for which it returns false.
    """

    settings: tuple[str, ...]
    is_met: Callable[[TrainConfig], bool]
    reason: str


def _has_validation_data(config: TrainConfig) -> bool:
    return bool(config.data.valid_data_path or config.data.data_path)


CONDITIONS = (
    Condition(
        ("sequence_parallel",),
        lambda config: config.parallel.tensor_model_parallel_size > 1,
        "it splits the sequence over tensor-parallel ranks, and tensor_model_parallel_size is 1",
    ),
    Condition(("parallel_residual_dropout",), lambda config: config.model.hidden_dropout > 0, "hidden_dropout is 0"),
    Condition(("fp8_recipe", "fp8_margin"), lambda config: config.model.fp8_format is not None, "it needs fp8_format"),
    Condition(("split",), lambda config: bool(config.data.data_path), "it divides data_path, which is not given"),
    Condition(("packing_window", "data_cache_path"), lambda config: config.data.packing, "it needs packing"),
    Condition(
        ("pad_to_multiple",), lambda config: not config.data.packing, "packed rows always have seq_length positions"
    ),
    Condition(
        ("valid_data_path", "test_data_path"),
        lambda config: config.evaluation.eval_iters != 0,
        "eval_iters 0 turns evaluation off",
    ),
    Condition(("eval_interval",), _has_validation_data, "there is no validation data; give --valid_data_path"),
    Condition(
        ("eval_interval",), lambda config: config.evaluation.eval_iters != 0, "eval_iters 0 turns evaluation off"
    ),
    Condition(
        ("initial_loss_scale", "loss_scale_window", "hysteresis", "min_loss_scale"),
        lambda config: config.model.fp16,
        "only fp16 scales the loss",
    ),
    Condition(
        ("skip_spike_window",),
        lambda config: config.optimizer.skip_spike_sigma is not None,
        "it needs skip_spike_sigma",
    ),
    Condition(
        ("min_lr", "lr_decay_iters"),
        lambda config: config.lr_schedule.lr_decay_style != "constant",
        "with lr_decay_style constant, the learning rate does not decay",
    ),
    Condition(
        ("lr_decay_iters",),
        lambda config: config.lr_schedule.lr_decay_style != "inverse-square-root",
        "the decay inverse-square-root has no end",
    ),
    Condition(("lr_warmup_style",), lambda config: config.lr_schedule.lr_warmup_iters > 0, "lr_warmup_iters is 0"),
    Condition(
        ("no_load_optim", "no_load_rng"),
        lambda config: not config.checkpoint.finetune,
        "finetune loads the weights alone",
    ),
    Condition(
        ("save_total_limit", "async_save"), lambda config: config.checkpoint.save is not None, "it needs --save DIR"
    ),
    Condition(("wandb_project",), lambda config: config.logging.wandb_logger, "it needs wandb_logger"),
    Condition(
        ("metric_names",),
        lambda config: config.logging.wandb_logger or config.logging.tensorboard_dir is not None,
        "it names the curves of wandb_logger and tensorboard_dir, and neither is given",
    ),
)
"""The conditions, in the order of the settings. A setting may occur in several of them."""


def settings_without_effect(config: TrainConfig) -> list[str]:
    """Return a message for each setting that differs from its default but has no effect in this run."""
    given = changed_settings({name: value for group in asdict(config).values() for name, value in group.items()})
    return [
        f"{name} {_shown(given[name])} has no effect: {condition.reason}"
        for condition in CONDITIONS
        if not condition.is_met(config)
        for name in condition.settings
        if name in given
    ]


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
