from __future__ import annotations

import pytest

from megatron_train.config.settings import LrSchedule
from megatron_train.optim.lr_schedule import learning_rate

# Goldens of the card's stage 2 (64 samples an iteration, 519 iterations), from Megatron-LLM's scheduler.
STAGE_2 = LrSchedule(lr=1e-5, min_lr=1e-6, lr_warmup_iters=100)


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        (0, 0.0),
        (1, 1.0e-7),
        (5, 5.0e-7),
        (50, 5e-6),
        (100, 1e-5),
        (200, 8.7933e-6),
        (346, 4.2838e-6),
        (518, 1.00013e-6),
        (519, 1e-6),
        (1000, 1e-6),
    ],
)
def test_stage_2_of_the_card(iterations: int, expected: float) -> None:
    assert learning_rate(STAGE_2, iterations * 64, 64, 519) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("style", "iterations", "expected"),
    [
        ("linear", 0, 0.0),
        ("linear", 10, 1.0),
        ("linear", 20, 0.875),
        ("linear", 90, 0.0),
        ("linear", 91, 0.0),
        ("constant", 10, 1.0),
        ("constant", 1000, 1.0),
        ("inverse-square-root", 10, 1.0),
        ("inverse-square-root", 40, 0.5),
        ("inverse-square-root", 1000, 0.1),
        ("cosine", 50, 0.5),
        ("cosine", 90, 0.0),
    ],
)
def test_styles_with_ten_iterations_of_warmup_of_ninety(style: str, iterations: int, expected: float) -> None:
    schedule = LrSchedule(lr=1.0, lr_warmup_iters=10, lr_decay_style=style)  # type: ignore[arg-type]
    assert learning_rate(schedule, iterations * 8, 8, 90) == pytest.approx(expected, abs=1e-12)


def test_inverse_square_root_never_falls_below_min_lr() -> None:
    schedule = LrSchedule(lr=1.0, min_lr=0.25, lr_warmup_iters=1, lr_decay_style="inverse-square-root")
    assert learning_rate(schedule, 10_000, 1, 90) == 0.25


def test_lr_decay_iters_ends_the_decay_before_train_iters() -> None:
    schedule = LrSchedule(lr=1.0, min_lr=0.1, lr_decay_style="linear", lr_decay_iters=10)
    assert [learning_rate(schedule, n, 1, 100) for n in (0, 5, 10, 11)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_log_warmup_is_deepspeeds() -> None:
    """The factor is log(n + 1) / log(warm-up iterations), as in deepspeed.runtime.lr_schedules.WarmupLR."""
    schedule = LrSchedule(lr=1.0, lr_warmup_iters=100, lr_warmup_style="log", lr_decay_style="constant")
    rates = [learning_rate(schedule, n * 4, 4, 1000) for n in (0, 1, 9, 49, 98, 99, 100)]
    assert rates == pytest.approx([0.0, 0.150515, 0.5, 0.849485, 0.997818, 1.0, 1.0], abs=1e-6)


def test_no_warmup_starts_at_lr() -> None:
    assert learning_rate(LrSchedule(lr=3e-4), 0, 64, 100) == 3e-4
