"""Whole runs from the command line: exit codes, messages, files, stops and resumptions."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from megatron_train.__main__ import main
from megatron_train.parallel.stop_request import SIGNALS
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.megatron_train.report.test_metrics import scalars_in


@pytest.fixture
def run(tmp_path: Path, single_process: None) -> Iterator[Any]:
    """Return `run(*flags)`, which trains six iterations on toy data into tmp_path/save and returns the exit code."""
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    train = write_shard(tmp_path / "toy-train", toy_documents(12))
    valid = write_shard(tmp_path / "toy-val", toy_documents(5, seed=1))
    LLAMA.save(tmp_path / "model.yaml")
    settings = {
        "model": str(tmp_path / "model.yaml"),
        "train_data_path": [train],
        "valid_data_path": [f"val={valid}"],
        "save": str(tmp_path / "save"),
        "seq_length": 48,
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "train_iters": 6,
        "lr": 1e-2,
        "lr_decay_style": "constant",
        "packing": True,
        "log_interval": 1,
        "hidden_dropout": 0.1,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    yield lambda *flags: main(["--config", str(tmp_path / "run.yaml"), *map(str, flags)])
    for number, handler in before:
        signal.signal(number, handler)


def metrics(folder: Path) -> tuple[dict[int, float], dict[int, Any]]:
    """Return the losses and the evaluations of metrics.jsonl by iteration."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {record["iteration"]: record["lm_loss"] for record in records if "lm_loss" in record}
    return losses, {record["iteration"]: record["eval"] for record in records if "eval" in record}


def test_a_run_leaves_checkpoint_metrics_and_a_readable_console(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--save_interval", 4, "--eval_interval", 3) == 0
    losses, evaluations = metrics(tmp_path / "save")
    assert sorted(losses) == [1, 2, 3, 4, 5, 6]
    assert sorted(evaluations) == [3, 6]
    assert set(evaluations[6]["val"]) == {"loss", "ppl", "token_accuracy", "num_target_tokens"}
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text() == "6\n"
    assert sorted(path.name for path in (tmp_path / "save").glob("iter_*")) == ["iter_0000004", "iter_0000006"]
    folder = tmp_path / "save" / "iter_0000006"
    assert {path.name for path in folder.iterdir()} >= {
        ".metadata", "common.pt", "metadata.json", "model_config.yaml", "train_config.yaml", "train_state.json",
        "SHA256SUMS",
    }  # fmt: skip
    assert json.loads((folder / "train_state.json").read_text())["consumed_train_samples"] == 24
    out = capsys.readouterr().out
    assert "4 samples = 2 per micro-batch x 2 micro-batches x 1 data-parallel ranks" in out
    assert "iter 6/6 | loss " in out


def test_a_stopped_run_resumes(run: Any, tmp_path: Path) -> None:
    assert run("--save", tmp_path / "whole", "--eval_interval", 2) == 0
    flags = ["--eval_interval", 2, "--tensorboard_dir", tmp_path / "tb"]
    assert run("--exit_interval", 3, *flags) == 0
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text() == "3\n"
    assert run(*flags) == 0
    assert metrics(tmp_path / "save") == metrics(tmp_path / "whole")
    assert [step for step, _ in scalars_in(tmp_path / "tb")["lm loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in scalars_in(tmp_path / "tb/samples")["lm loss vs samples"]] == [4, 8, 12, 16, 20, 24]
    assert run() == 0  # the run is finished
    assert metrics(tmp_path / "save") == metrics(tmp_path / "whole")


def test_an_ended_run_leaves_no_process_group(run: Any, tmp_path: Path) -> None:
    """Every gloo group has threads."""
    threads = []
    for number in range(3):
        assert run("--save", tmp_path / f"save{number}", "--train_iters", 1) == 0
        threads.append(psutil.Process().num_threads())
    assert threads[1:] == threads[:1] * 2


def test_a_signal_saves_and_leaves(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron_train.report.metrics import Reporter

    step = Reporter.step

    def step_and_signal(self: Reporter, report: Any) -> None:
        step(self, report)
        if report.iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Reporter, "step", step_and_signal)
    assert run("--exit_code_on_signal", 17) == 17
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text() == "2\n"
    assert sorted(metrics(tmp_path / "save")[0]) == [1, 2]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--save", tmp_path / "whole") == 0
    assert run("--save_interval", 2, "--exit_interval", 4) == 0
    damaged = next((tmp_path / "save" / "iter_0000004").glob("*.distcp"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert run() == 0
    error = capsys.readouterr().err
    assert f"iter_0000004: damaged: {damaged}: contents differ from SHA256SUMS" in error
    assert f"going back to {tmp_path}/save/iter_0000002" in error
    assert metrics(tmp_path / "save")[0] == metrics(tmp_path / "whole")[0]


def test_finetune_takes_the_weights_alone(run: Any, tmp_path: Path) -> None:
    assert run() == 0
    flags = ["--load", tmp_path / "save", "--save", tmp_path / "second", "--finetune", "--train_iters", 2]
    assert run(*flags) == 0
    state = json.loads((tmp_path / "second" / "iter_0000002" / "train_state.json").read_text())
    assert (state["iteration"], state["consumed_train_samples"]) == (2, 8)
    first, second = metrics(tmp_path / "save")[0], metrics(tmp_path / "second")[0]
    assert second[1] < first[1]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--train_data_path", "missing"], 1, "error: missing-text.idx: no such shard"),
        (["--load", "missing"], 1, "error: missing: no such checkpoint folder"),
        (["--model", "missing.yaml"], 2, "error: missing.yaml: cannot read: No such file or directory"),
        (["--tensor_model_parallel_size", "2"], 2, "error: world size 1 is not a multiple of"),
        (["--seq_length", "4096"], 2, "error: seq_length 4096 exceeds the model's max_position_embeddings 64"),
        (["--lr", "much"], 2, "lr: expected a number, found 'much'"),
        (["--learning"], 2, "error: unknown flag --learning"),
        (["--config", "missing.yaml"], 2, "error: missing.yaml: cannot read: No such file or directory"),
        (["--global_batch_size", "3"], 2, "error: global_batch_size 3 is not a multiple of micro_batch_size 2"),
    ],
)
def test_a_user_error_is_one_message_without_traceback(
    flags: list[str], code: int, message: str, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*flags) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
    assert not (tmp_path / "save").exists()


def test_a_truncated_shard_is_named(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "toy-train-text.bin"
    path.write_bytes(path.read_bytes()[:-7])
    assert run() == 1
    assert f"error: {tmp_path}/toy-train-text" in capsys.readouterr().err


def test_a_checkpoint_of_another_shape_is_refused(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--train_iters", 1) == 0
    text = (tmp_path / "model.yaml").read_text()
    (tmp_path / "model.yaml").write_text(text.replace("num_layers: 4", "num_layers: 2"))
    assert run() == 1
    assert "num_layers: 2 in" in capsys.readouterr().err


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--tensor_model_parallel_size" in capsys.readouterr().out


def test_saving_in_the_background_gives_the_same_checkpoints(run: Any, tmp_path: Path) -> None:
    flags = ["--save_interval", 2, "--eval_interval", 2, "--save_total_limit", 2]
    assert run("--save", tmp_path / "plain", *flags) == 0
    assert run("--async_save", "--exit_interval", 3, *flags) == 0
    assert run("--async_save", *flags) == 0
    assert metrics(tmp_path / "save") == metrics(tmp_path / "plain")
    names = [sorted(path.name for path in (tmp_path / way).glob("iter_*")) for way in ("plain", "save")]
    assert names[0] == names[1]
    for name in names[0]:
        sums = [
            [line for line in (tmp_path / way / name / "SHA256SUMS").read_text().splitlines() if "_config" not in line]
            for way in ("plain", "save")
        ]
        assert sums[0] == sums[1]


def test_a_collapsed_loss_scale_ends_the_run_and_keeps_its_checkpoint(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From iteration 3 every gradient overflows, so the scale falls to its minimum and the run cannot recover."""
    from megatron_train.run import Run

    def overflowing(run: Run) -> Any:
        handles = []
        if run.iteration >= 2:
            weight = next(iter(run.chunks[0].parameters()))
            handles.append(weight.register_hook(lambda gradient: gradient * float("inf")))
        report = step(run)
        for handle in handles:
            handle.remove()
        return report

    step = Run.step
    monkeypatch.setattr(Run, "step", overflowing)
    flags = ["--fp16", "--initial_loss_scale", 4, "--hysteresis", 1, "--train_iters", 50, "--max_not_finite", 4]
    assert run(*flags, "--save_interval", 2) == 1
    printed = capsys.readouterr()
    assert "error: 4 iterations in a row up to 6 were not finite" in printed.err
    assert "iter  3/50 | loss " in printed.out
    assert "scale 2 | NOT APPLIED: not finite" in printed.out
    records = [json.loads(line) for line in (tmp_path / "save" / "metrics.jsonl").read_text().splitlines()]
    assert [record["loss_scale"] for record in records] == [4.0, 4.0, 2.0, 1.0, 1.0, 1.0]
    assert [record["skipped"] for record in records] == [False] * 2 + [True] * 4
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text() == "4\n"


def test_what_differs_from_the_checkpoint_is_one_table(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--train_iters", 2) == 0
    text = (tmp_path / "model.yaml").read_text()
    (tmp_path / "model.yaml").write_text(text.replace("rotary_base: 10000.0", "rotary_base: 1000000.0"))
    capsys.readouterr()
    assert run("--train_iters", 3, "--lr", "2e-2", "--use_checkpoint_args", "--load", tmp_path / "save") == 0
    error = capsys.readouterr().err
    assert f"differ from {tmp_path}/save/iter_0000002:\n" in error
    table = error[error.index("  setting ") :].partition("warning: ")
    rows = [line.split() for line in table[0].splitlines()]
    assert table[2].startswith("the learning rate continues at 0.02; the checkpoint's schedule gives 0.01 here")
    assert rows == [
        ["setting", "checkpoint", "given", "in", "force"],
        ["rotary_base", "10000.0", "1000000.0", "checkpoint"],
        ["train_iters", "2", "3", "given"],
        ["lr", "0.01", "0.02", "given"],
    ]
    stored = yaml.safe_load((tmp_path / "save" / "iter_0000003" / "model_config.yaml").read_text())
    assert stored["rotary_base"] == 10000.0


def test_the_best_checkpoint_by_validation_is_named_and_kept(run: Any, tmp_path: Path) -> None:
    """The learning rate is so high that the loss rises again."""
    flags = ["--train_iters", 8, "--save_interval", 1, "--eval_interval", 1, "--save_total_limit", 2, "--lr", 0.05]
    assert run(*flags) == 0
    losses = {iteration: sets["val"]["loss"] for iteration, sets in metrics(tmp_path / "save")[1].items()}
    best = min(losses, key=lambda iteration: losses[iteration])
    assert best < 7
    assert (tmp_path / "save" / "best_checkpointed_iteration.txt").read_text() == f"{best}\n"
    kept = sorted(path.name for path in (tmp_path / "save").glob("iter_*"))
    assert kept == [f"iter_{best:07d}", "iter_0000007", "iter_0000008"]


def test_last_turns_that_may_be_cut_off_are_refused(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train_iters", 1, "--last_turn_only", "--seq_length", 24]
    assert run(*flags) == 2
    assert "last_turn_only: " in capsys.readouterr().err
    assert run(*flags, "--overlong", "drop") == 0


def test_only_what_is_saved_can_be_the_best(run: Any, tmp_path: Path) -> None:
    flags = ["--train_iters", 8, "--save_interval", 3, "--eval_interval", 1, "--save_total_limit", 1, "--lr", 0.05]
    assert run(*flags) == 0
    losses = {iteration: sets["val"]["loss"] for iteration, sets in metrics(tmp_path / "save")[1].items()}
    best = min((3, 6, 8), key=lambda iteration: losses[iteration])
    assert min(losses, key=lambda iteration: losses[iteration]) not in (3, 6, 8)
    assert (tmp_path / "save" / "best_checkpointed_iteration.txt").read_text() == f"{best}\n"
    assert sorted(path.name for path in (tmp_path / "save").glob("iter_*")) == [f"iter_{best:07d}", "iter_0000008"]


def test_the_last_evaluation_counts_for_the_best(run: Any, tmp_path: Path) -> None:
    assert run("--train_iters", 2) == 0
    assert (tmp_path / "save" / "best_checkpointed_iteration.txt").read_text() == "2\n"


# ---- settings in force


def test_a_run_resumes_with_another_global_batch_size(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first 2 iterations take 8 samples; later ones take 2 each and continue at sample 8."""
    assert run("--train_iters", 2) == 0
    capsys.readouterr()
    assert run("--train_iters", 5, "--global_batch_size", 2) == 0
    assert ["global_batch_size", "4", "2", "given"] in [line.split() for line in capsys.readouterr().err.splitlines()]
    state = json.loads((tmp_path / "save" / "iter_0000005" / "train_state.json").read_text())
    assert (state["consumed_train_samples"], state["world_size"]) == (8 + 3 * 2, 1)


def test_a_resumed_run_keeps_the_batch_of_its_checkpoint(run: Any, tmp_path: Path) -> None:
    assert run("--train_iters", 2, "--global_batch_size", 8) == 0
    text = (tmp_path / "run.yaml").read_text()
    (tmp_path / "run.yaml").write_text(text.replace("global_batch_size: 4\n", ""))
    assert run("--train_iters", 3) == 0
    state = json.loads((tmp_path / "save" / "iter_0000003" / "train_state.json").read_text())
    assert state["consumed_train_samples"] == 24


def test_without_train_iters_a_run_takes_one_epoch(run: Any, tmp_path: Path) -> None:
    """Twelve padded documents make three batches of four."""
    assert run("--train_iters", 0, "--packing", "false") == 0
    assert sorted(metrics(tmp_path / "save")[0]) == [1, 2, 3]
    assert run("--train_iters", 0, "--packing", "false", "--train_epochs", 2) == 0
    assert sorted(metrics(tmp_path / "save")[0]) == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_says_so_and_a_second_stage_without_finetune_is_an_error(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert run() == 0
    assert "has reached iteration 6 of --train_iters 6: nothing is left to train" in capsys.readouterr().out
    assert run("--load", tmp_path / "save", "--save", tmp_path / "second") == 1
    assert "add --finetune" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


# ---- a run that learns nothing


def test_a_run_without_any_target_is_refused(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--loss_roles", "context", "--packing", "false") == 2
    assert "none of the 12 training documents has a token of loss_roles (context)" in capsys.readouterr().err
    assert not (tmp_path / "save").exists()


def test_a_run_whose_every_update_was_skipped_fails_without_a_checkpoint(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--train_iters", 2, "--skip_iters", 1, 2) == 1
    assert "error: none of the 2 updates was applied" in capsys.readouterr().err
    assert list((tmp_path / "save").glob("iter_*")) == []


def test_an_empty_validation_set_is_an_error(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_shard(tmp_path / "empty", [])
    assert run("--valid_data_path", empty) == 2
    assert f"{empty}: no document to evaluate has two tokens" in capsys.readouterr().err


def test_a_blend_part_without_documents_is_named(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_shard(tmp_path / "empty", [])
    assert run("--train_data_path", 1, tmp_path / "toy-train", 1, empty) == 2
    assert f"train_data_path: {empty} holds no documents" in capsys.readouterr().err


# ---- a stop before and during an evaluation


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_requested_stop_saves_and_skips_the_evaluation(
    when: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_train import evaluate
    from megatron_train.report.metrics import Reporter

    def signalling(original: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            result = original(*arguments, **keywords)
            os.kill(os.getpid(), signal.SIGTERM)
            return result

        return call

    target, name = (Reporter, "step") if when == "before" else (evaluate, "run_schedule")
    monkeypatch.setattr(target, name, signalling(getattr(target, name)))
    monkeypatch.setattr(evaluate, "MICROBATCHES_PER_CALL", 1)
    assert run("--eval_interval", 1, "--micro_batch_size", 1) == 0
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text() == "1\n"
    assert metrics(tmp_path / "save")[1] == {}


# ---- other commands


def test_a_checkpoint_is_evaluated_by_itself(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    expected = metrics(tmp_path / "save")[1][6]["val"]
    capsys.readouterr()
    valid = ["--valid_data_path", f"val={tmp_path}/toy-val", "--seq_length", "48"]
    assert main(["evaluate", "--load", str(tmp_path / "save"), *valid]) == 0
    out = capsys.readouterr().out
    assert f"val | loss {expected['loss']:.4f} | ppl {expected['ppl']:.3f}" in out
    assert main(["evaluate", *valid]) == 2
    assert "evaluate needs --load CHECKPOINT" in capsys.readouterr().err


def test_a_hugging_face_folder_is_pointed_to_the_converter(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    (tmp_path / "hf" / "model.safetensors").touch()
    assert run("--load", tmp_path / "hf") == 1
    assert f" from-hf {tmp_path}/hf " in capsys.readouterr().err
