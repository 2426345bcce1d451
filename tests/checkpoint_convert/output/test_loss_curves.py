"""loss.png: drawn for runs with losses, from metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoint_convert.output.loss_curves import draw_losses, read_metrics

LINES = [
    {"iteration": 1, "lm_loss": 3.0},
    {"iteration": 2, "lm_loss": None},
    {"iteration": 2, "eval": {"val": {"loss": 2.5}, "broken": {"loss": None}}},
    {"iteration": 3, "lm_loss": 2.0},
    {"iteration": 3, "test": {"held_out": {"loss": 2.25}}},
]


def test_a_run_with_losses_is_drawn(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    for name in ("stage1", "stage2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert read_metrics(tmp_path / "stage1") == LINES
    assert draw_losses([tmp_path / "stage1", tmp_path / "gone", tmp_path / "stage2"], tmp_path)
    width, height = image.open(tmp_path / "loss.png").size
    assert (width, height) == (1080, 360)


def test_nothing_is_drawn_without_losses(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "lm_loss": null}\n')
    assert not draw_losses([tmp_path, tmp_path / "gone"], tmp_path)
    assert not (tmp_path / "loss.png").exists()
