"""The allowed range of every numeric setting."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from megatron_train.config.settings import TrainConfig


@dataclass(frozen=True)
class Range:
    """The allowed numbers from `low` to `high`. An end marked as open is not allowed; NaN and infinity never are."""

    low: float = 0.0
    high: float = math.inf
    is_low_open: bool = False
    is_high_open: bool = False
    reason: str = ""
    """Why other numbers make no sense, for error messages; "" where the setting's name says it."""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.is_low_open else value >= self.low
        below = value < self.high if self.is_high_open else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{'above' if self.is_low_open else 'at least'} {self.low:g}"
        high = f" and {'below' if self.is_high_open else 'at most'} {self.high:g}" if self.high < math.inf else ""
        return low + high + (f": {self.reason}" if self.reason else "")


COUNT, NATURAL, NOT_NEGATIVE = Range(1), Range(0), Range(0)
POSITIVE, PROBABILITY = Range(0, is_low_open=True), Range(0, 1, is_high_open=True)
MOMENT = Range(0, 1, is_high_open=True, reason="at 1, a moment never forgets its first value")

RANGES: dict[str, Range] = {
    "distributed_timeout_minutes": POSITIVE,
    "max_position_embeddings": COUNT,
    "hidden_dropout": PROBABILITY,
    "embedding_dropout": PROBABILITY,
    "attention_dropout": PROBABILITY,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "recompute_num_layers": COUNT,
    "fp8_margin": NATURAL,
    "seq_length": COUNT,
    "packing_window": COUNT,
    "pad_to_multiple": COUNT,
    "scalar_loss_mask": Range(0, 1),
    "micro_batch_size": COUNT,
    "global_batch_size": COUNT,
    "train_iters": NATURAL,
    "train_epochs": POSITIVE,
    "loss_chunk_size": COUNT,
    "seed": Range(0, 2**32 - 1, reason="numpy takes no other seed"),
    "adam_beta1": MOMENT,
    "adam_beta2": MOMENT,
    "adam_eps": Range(0, is_low_open=True, reason="a weight without gradient would become NaN"),
    "weight_decay": Range(0, reason="negative decay lets weights grow without bound"),
    "clip_grad": NOT_NEGATIVE,
    "skip_spike_sigma": POSITIVE,
    "skip_spike_window": Range(16, reason="fewer losses give no standard deviation"),
    "max_not_finite": NATURAL,
    "initial_loss_scale": POSITIVE,
    "loss_scale_window": COUNT,
    "hysteresis": COUNT,
    "min_loss_scale": POSITIVE,
    "lr": NOT_NEGATIVE,
    "min_lr": NOT_NEGATIVE,
    "lr_decay_iters": COUNT,
    "lr_warmup_iters": NATURAL,
    "load_iters": NATURAL,
    "save_interval": COUNT,
    "save_total_limit": COUNT,
    "eval_interval": COUNT,
    "eval_iters": NATURAL,
    "log_interval": COUNT,
    "exit_interval": COUNT,
    "exit_duration_in_mins": NOT_NEGATIVE,
    "exit_code_on_signal": Range(0, 255),
    "timing_log_level": NATURAL,
    "peak_tflops": POSITIVE,
}


def range_problems(config: TrainConfig) -> list[str]:
    """Return a message for each setting outside its range. Settings that are None are not checked."""
    values = {name: value for group in asdict(config).values() for name, value in group.items()}
    return [
        f"{name} is {values[name]}; it must be {allowed}"
        for name, allowed in RANGES.items()
        if values[name] is not None and values[name] not in allowed
    ]
