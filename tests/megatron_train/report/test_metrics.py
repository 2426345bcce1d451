from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_train.config.flags import config_from_settings
from megatron_train.config.settings import TrainConfig
from megatron_train.report.flops import model_flops
from megatron_train.report.metrics import Reporter, StepReport, console_line, cut_back, evaluation_scalars
from tests.megatron_train.models import LLAMA
from tests.paths import CONFIGS

REPORT = StepReport(
    iteration=30,
    lm_loss=1.23456,
    lr=9.5e-6,
    grad_norm=0.51234,
    num_target_tokens=6_000,
    num_tokens=10_000,
    tokens_per_second=12_345.6,
    mfu=None,
    consumed_train_samples=1920,
    epoch=0.25,
    step_seconds=0.81,
    skipped=False,
)


def test_console_line_is_for_people() -> None:
    assert console_line(REPORT, 12_000) == (
        "iter    30/12000 | loss 1.2346 | lr 9.5e-06 | grad 0.512 | 12,346 tok/s | 60% trained on | epoch 0.25 | "
        "0.81 s/it | left 2:41:35"
    )


def test_console_line_shows_what_is_wrong() -> None:
    line = console_line(replace(REPORT, lm_loss=math.nan, grad_norm=math.inf, skipped=True, loss_scale=512.0), 100)
    assert "loss nan" in line
    assert "grad inf" in line
    assert "scale 512" in line
    assert "NOT APPLIED: not finite" in line


def test_console_line_has_mfu_where_the_peak_is_known() -> None:
    assert "MFU 51.2%" in console_line(replace(REPORT, mfu=0.5123), 100)


def reporter(folder: Path, iteration: int = 0, **settings: object) -> Reporter:
    config = config_from_settings({"save": str(folder), "train_iters": 100} | settings, "test")
    return Reporter(config, iteration, 64 * iteration)


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_file_has_the_documented_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = reporter(tmp_path, log_interval=30)
    log.step(replace(REPORT, iteration=29))
    log.step(REPORT)
    log.evaluation(30, {"val": {"loss": 1.5, "ppl": 4.4817, "token_accuracy": 0.61, "num_target_tokens": 1234}})
    log.close()
    first, second, evaluation = lines_of(tmp_path)
    assert set(first) >= {
        "iteration", "lm_loss", "lr", "grad_norm", "num_target_tokens", "num_tokens", "tokens_per_second", "mfu",
        "consumed_train_samples", "epoch", "step_seconds", "skipped",
    }  # fmt: skip
    assert (second["iteration"], second["lm_loss"], second["lr"]) == (30, 1.23456, 9.5e-6)
    assert evaluation == {
        "iteration": 30,
        "eval": {"val": {"loss": 1.5, "ppl": 4.4817, "token_accuracy": 0.61, "num_target_tokens": 1234}},
    }
    assert json.loads((tmp_path / "evaluations.jsonl").read_text()) == {
        "iteration": 30,
        "kind": "eval",
        "set": "val",
        "loss": 1.5,
        "ppl": 4.4817,
        "token_accuracy": 0.61,
        "num_target_tokens": 1234,
    }
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert printed[1] == "eval after 30 | val | loss 1.5000 | ppl 4.482 | token accuracy 61.0% | 1,234 target tokens"


def test_a_skipped_iteration_is_always_on_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter(tmp_path, log_interval=50).step(replace(REPORT, skipped=True))
    assert "NOT APPLIED" in capsys.readouterr().out


def test_the_last_iteration_is_always_on_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = reporter(tmp_path, train_iters=8, log_interval=50)
    log.step(replace(REPORT, iteration=7))
    log.step(replace(REPORT, iteration=8))
    assert [line[:8] for line in capsys.readouterr().out.splitlines()] == ["iter 8/8"]


def test_resuming_cuts_the_file_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 2, "eval": {}}\n{"iteration": 3}\n{"itera')
    (tmp_path / "evaluations.jsonl").write_text('{"iteration": 1, "kind": "eval"}\n{"iteration": 2, "kind": "eval"}\n')
    cut_back(path, 2)
    assert path.read_text() == '{"iteration": 1}\n{"iteration": 2}\n{"iteration": 2, "eval": {}}\n'
    reporter(tmp_path, iteration=1)
    assert lines_of(tmp_path) == [{"iteration": 1}]
    assert (tmp_path / "evaluations.jsonl").read_text() == '{"iteration": 1, "kind": "eval"}\n'


def test_each_launch_is_recorded_and_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    def launches() -> list[int]:
        return [json.loads(line)["iteration"] for line in (tmp_path / "launches.jsonl").read_text().splitlines()]

    reporter(tmp_path)
    reporter(tmp_path, iteration=20)
    reporter(tmp_path, iteration=40)
    assert launches() == [0, 20, 40]
    reporter(tmp_path)
    assert launches() == [0]


def test_cut_back_of_no_file_makes_none(tmp_path: Path) -> None:
    cut_back(tmp_path / "metrics.jsonl", 5)
    assert not (tmp_path / "metrics.jsonl").exists()


RESULTS = {
    "a": {"loss": 1.5, "ppl": 4.5, "token_accuracy": 0.6, "num_target_tokens": 12},
    "b": {"loss": 2.5, "ppl": 12.2, "token_accuracy": 0.4, "num_target_tokens": 24},
}


def scalars_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of a log folder as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, round(event.value, 4)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_a_resumed_run_takes_back_only_what_came_later(tmp_path: Path) -> None:
    for first, last in ((1, 6), (5, 8)):  # killed after iteration 6, with the last checkpoint at 4
        with reporter(tmp_path, first - 1, tensorboard_dir=str(tmp_path / "tb")) as log:
            for i in range(first, last + 1):
                log.step(replace(REPORT, iteration=i, consumed_train_samples=64 * i, lm_loss=float(first)))
    losses = [1.0] * 4 + [5.0] * 4
    assert scalars_in(tmp_path / "tb")["lm loss"] == list(zip(range(1, 9), losses, strict=True))
    by_samples = scalars_in(tmp_path / "tb/samples")["lm loss vs samples"]
    assert by_samples == list(zip(range(64, 513, 64), losses, strict=True))


def test_the_metrics_file_holds_only_json(tmp_path: Path) -> None:
    """Other JSON readers refuse NaN and Infinity, which Python writes by default."""
    log = reporter(tmp_path)
    log.step(replace(REPORT, lm_loss=math.nan, grad_norm=math.inf, skipped=True))
    log.evaluation(30, {"val": {"loss": math.nan, "ppl": math.nan, "token_accuracy": 0.5, "num_target_tokens": 0}})
    log.close()

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    step, evaluation = (json.loads(line, parse_constant=refuse) for line in lines)
    assert (step["lm_loss"], step["grad_norm"], step["lr"]) == (None, None, 9.5e-6)
    assert evaluation["eval"]["val"]["loss"] is None


def test_a_tracker_that_fails_is_dropped_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = RecordedWandb()
    monkeypatch.setitem(sys.modules, "wandb", recorded)
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")

    def broken(values: object, step: int) -> None:
        raise ConnectionError("the server is gone")

    recorded.log = broken  # type: ignore[method-assign,assignment]
    with reporter(tmp_path, wandb_logger=True, tensorboard_dir=str(tmp_path / "tb")) as log:
        log.step(replace(REPORT, iteration=29))
        log.step(REPORT)
    warning = "warning: --wandb_logger: ConnectionError: the server is gone; the run continues without it"
    assert [line for line in capsys.readouterr().err.splitlines() if "warning" in line] == [warning]
    assert len(lines_of(tmp_path)) == 2
    assert [step for step, _ in scalars_in(tmp_path / "tb")["lm loss"]] == [29, 30]


def test_a_tensorboard_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tb").write_text("a file")
    with reporter(tmp_path, tensorboard_dir=str(tmp_path / "tb")) as log:
        log.step(REPORT)
    assert "warning: --tensorboard_dir: FileExistsError" in capsys.readouterr().err
    assert len(lines_of(tmp_path)) == 1


def test_a_set_without_targets_does_not_count_in_the_mean() -> None:
    empty = {"loss": math.nan, "ppl": math.nan, "token_accuracy": math.nan, "num_target_tokens": 0}
    scalars = evaluation_scalars({"a": RESULTS["a"], "empty": empty}, "eval", "megatron")
    assert scalars["lm loss validation"] == RESULTS["a"]["loss"]


def test_nan_stays_nan() -> None:
    scalars = evaluation_scalars({"a": RESULTS["a"] | {"loss": math.nan}, "b": RESULTS["b"]}, "eval", "megatron")
    assert math.isnan(scalars["lm loss validation"]) and math.isnan(scalars["lm loss validation ppl"])


def test_a_key_of_wandb_login_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = RecordedWandb()
    monkeypatch.setitem(sys.modules, "wandb", recorded)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    reporter(tmp_path, wandb_logger=True).close()
    assert not recorded.started
    (tmp_path / "home/.netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "home/.netrc").chmod(0o600)
    reporter(tmp_path, wandb_logger=True).close()
    assert len(recorded.started) == 1


def logged_curves(folder: Path, names: str) -> dict[str, list[tuple[int, float]]]:
    """Return TensorBoard's curves after one iteration, an evaluation of two sets and a test of one."""
    with reporter(folder, tensorboard_dir=str(folder / "tb"), metric_names=names) as log:
        log.step(replace(REPORT, mfu=0.5, loss_scale=512.0))
        log.evaluation(30, RESULTS)
        log.evaluation(30, {"a": RESULTS["b"]}, kind="test")
    return scalars_in(folder / "tb") | scalars_in(folder / "tb/samples")


def test_tensorboard_shows_each_curve_once_under_megatrons_names(tmp_path: Path) -> None:
    found = logged_curves(tmp_path, "megatron")
    step = {
        "lm loss": 1.2346, "learning_rate": 0.0, "grad_norm": 0.5123, "tokens-per-sec": 12345.5996,
        "iteration-time": 0.81, "epoch": 0.25, "mfu": 0.5, "loss_scale": 512.0,
    }  # fmt: skip
    evaluations = {
        "lm loss validation": 2.0, "lm loss validation ppl": 7.3891,
        "a lm loss validation": 1.5, "a lm loss validation ppl": 4.5, "a token accuracy validation": 0.6,
        "b lm loss validation": 2.5, "b lm loss validation ppl": 12.2, "b token accuracy validation": 0.4,
        "lm loss test": 2.5, "lm loss test ppl": 12.1825, "a token accuracy test": 0.4,
    }  # fmt: skip
    assert found == {
        **{name: [(30, value)] for name, value in (step | evaluations).items()},
        **{f"{name} vs samples": [(1920, value)] for name, value in step.items()},
    }


def test_tensorboard_shows_each_curve_once_under_hugging_faces_names(tmp_path: Path) -> None:
    expected = {
        "train/loss": 1.2346, "train/learning_rate": 0.0, "train/grad_norm": 0.5123, "train/epoch": 0.25,
        "train/tokens_per_second": 12345.5996, "train/step_seconds": 0.81, "train/mfu": 0.5, "train/loss_scale": 512.0,
        "eval/loss": 2.0, "eval/ppl": 7.3891, "eval/a_loss": 1.5, "eval/a_ppl": 4.5, "eval/a_accuracy": 0.6,
        "eval/b_loss": 2.5, "eval/b_ppl": 12.2, "eval/b_accuracy": 0.4,
        "test/loss": 2.5, "test/ppl": 12.1825, "test/a_accuracy": 0.4,
    }  # fmt: skip
    assert logged_curves(tmp_path, "hf") == {name: [(30, value)] for name, value in expected.items()}


class RecordedWandb:
    """Stands in for wandb, and records the settings and values of a run."""

    def __init__(self) -> None:
        self.started: list[dict[str, object]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **options: object) -> RecordedWandb:
        self.started.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_the_last_evaluation_and_a_resumed_run_its_own_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RecordedWandb()
    monkeypatch.setitem(sys.modules, "wandb", recorded)
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    with pytest.raises(KeyboardInterrupt), reporter(tmp_path, wandb_logger=True) as log:
        log.step(REPORT)
        log.evaluation(30, RESULTS)
        log.evaluation(30, RESULTS, kind="test")
        raise KeyboardInterrupt
    assert recorded.finished == 1
    assert [step for step, _ in recorded.logged] == [30, 30, 30]
    merged = {name: value for _, values in recorded.logged for name, value in values.items()}
    expected = {"lm loss": 1.23456, "lm loss validation": 2.0, "b lm loss validation": 2.5, "lm loss test": 2.0}
    assert {name: merged[name] for name in expected} == expected
    assert not any("vs samples" in name or "/" in name for name in merged)
    reporter(tmp_path, iteration=30, wandb_logger=True).close()
    reporter(tmp_path, iteration=0, wandb_logger=True).close()
    first, resumed, anew = (options["id"] for options in recorded.started)
    assert first == resumed != anew
    assert "planted-secret" not in str(recorded.started)
    assert all("planted-secret" not in path.read_text() for path in tmp_path.iterdir())


def test_wandb_without_a_key_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    reporter(tmp_path, wandb_logger=True).step(REPORT)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: --wandb_logger: ")
    assert warnings[0].endswith("the run continues without it")


def test_nothing_is_written_without_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(TrainConfig(), 0, 0).step(REPORT)
    assert "iter 30/0" in capsys.readouterr().out


def test_model_flops_by_hand() -> None:
    """A layer has 64 x (64 + 2 x 32) qkv, 64 x 64 projection, 3 x 64 x 96 MLP and 2 x 64 norms; the output 128 rows."""
    per_layer = 64 * 128 + 64 * 64 + 3 * 64 * 96 + 128
    assert LLAMA.parameters_per_layer() == per_layer
    assert model_flops(LLAMA, 10, 0) == 6 * 10 * (4 * per_layer + 128 * 64)
    assert model_flops(LLAMA, 0, 100) == 6 * 4 * 64 * 100


def test_model_flops_of_the_70b_at_4096() -> None:
    """6 x 68.7e9 for the weights and 6 x 80 x 8192 x 4096 for attention give about 4.3e11 FLOPs a token."""
    from megatron_train.config.model_config import ModelConfig

    model = ModelConfig.load(CONFIGS / "model" / "llama2_70b.yaml")
    assert model_flops(model, 4096, 4096**2) / 4096 == pytest.approx(4.284e11, rel=1e-3)
