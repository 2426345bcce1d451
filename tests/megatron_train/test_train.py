"""A Run in one process: batch shapes, rows without targets, recomputation, dropout and bitwise resumption."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_train.certificate.tensors import full_gradients, full_parameters
from megatron_train.data.sft_dataset import evaluation_samples
from megatron_train.run import Run
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA, MODELS
from tests.megatron_train.runs import save, start
from tests.megatron_train.tensors import documents_of, losses_one_by_one

pytestmark = pytest.mark.usefixtures("single_process")

SMALL = replace(LLAMA, num_layers=2)
SETTINGS: dict[str, Any] = {"lr": 0.3, "lr_decay_style": "constant", "adam_eps": 1.0, "train_iters": 8}


def write_documents(folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    prefix = write_shard(folder / f"toy{count}-{seed}", toy_documents(count, seed))
    return SETTINGS | {"train_data_path": [prefix]}


# ---- the same documents give the same loss and gradient in any shape


def rows_in_an_epoch(settings: dict[str, Any]) -> int:
    return round(start(SMALL, settings | {"packing": True, "train_iters": 1}).samples.rows_per_epoch)


def test_a_global_batch_gives_the_same_in_any_micro_batch_size_and_packed(tmp_path: Path) -> None:
    """One iteration takes all 24 documents, in 24 padded rows or in as many packed rows as they need."""
    settings = write_documents(tmp_path, 24) | {"train_iters": 1}
    packed_rows = rows_in_an_epoch(settings)
    assert packed_rows < 20
    shapes: list[dict[str, Any]] = [{"global_batch_size": 24, "micro_batch_size": size} for size in (1, 3, 8, 24)]
    shapes += [
        {"global_batch_size": packed_rows, "micro_batch_size": size, "packing": True} for size in (1, packed_rows)
    ]
    reports, gradients = [], []
    for shape in shapes:
        run = start(SMALL, settings | shape)
        reports.append(run.step())
        gradients.append(full_gradients(run.chunks)[0])
    assert [report.num_target_tokens for report in reports] == [reports[0].num_target_tokens] * 6
    assert [report.num_tokens for report in reports] == [reports[0].num_tokens] * 6
    for report, gradient in zip(reports, gradients, strict=True):
        assert report.lm_loss == pytest.approx(reports[0].lm_loss, rel=1e-6)
        for key, value in gradient.items():
            torch.testing.assert_close(value, gradients[0][key], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_that_of_the_documents_one_by_one(tmp_path: Path, packing: bool) -> None:
    settings = write_documents(tmp_path, 24) | {"packing": packing, "train_iters": 1}
    rows = rows_in_an_epoch(settings) if packing else 24
    run = start(SMALL, settings | {"global_batch_size": rows})
    total, targets, _ = losses_one_by_one(run, documents_of(settings["train_data_path"][0]))
    report = run.step()
    assert report.num_target_tokens == targets
    assert report.lm_loss == pytest.approx(total.item() / targets, rel=1e-6)


@pytest.mark.parametrize("packing", [False, True])
def test_rows_about_as_long_as_the_longest_document(tmp_path: Path, packing: bool) -> None:
    """A document of n tokens fills n - 1 positions. From seq_length n - 1, nothing is cut and the loss is the same."""
    settings = write_documents(tmp_path, 24) | {"train_iters": 1, "packing": packing, "pad_to_multiple": 1}
    longest = max(len(tokens) for tokens, _ in documents_of(settings["train_data_path"][0]))
    found = []
    for seq_length in (longest - 2, longest - 1, longest, longest + 1):
        one = start(SMALL, settings | {"seq_length": seq_length})
        rows = round(one.samples.rows_per_epoch)
        run = start(SMALL, settings | {"seq_length": seq_length, "global_batch_size": rows})
        report = run.step()
        found.append((run.samples.num_overlong, report.num_tokens, report.num_target_tokens, report.lm_loss))
    cut, *whole = found
    assert cut[0] >= 1
    assert cut[1] == whole[0][1] - cut[0]
    assert [each[0] for each in whole] == [0, 0, 0]
    assert len({each[1:3] for each in whole}) == 1
    assert whole[1][3] == pytest.approx(whole[0][3], rel=1e-6)
    assert whole[2][3] == pytest.approx(whole[0][3], rel=1e-6)


@pytest.mark.parametrize("packing", [False, True])
def test_a_data_set_of_one_document(tmp_path: Path, packing: bool) -> None:
    run = start(SMALL, write_documents(tmp_path, 1) | {"global_batch_size": 4, "packing": packing})
    document = documents_of(run.config.data.train_data_path[0])
    total, targets, _ = losses_one_by_one(run, document)
    first, second = run.step(), run.step()
    assert (first.num_target_tokens, first.epoch, second.epoch) == (4 * targets, 4.0, 8.0)
    assert first.lm_loss == pytest.approx(total.item() / targets, rel=1e-6)
    samples = evaluation_samples(run.samples.documents, None, run.config.data)
    assert run.evaluate({"v": samples})["v"]["num_target_tokens"] == targets


# ---- rows without target tokens


def without_targets(folder: Path) -> dict[str, Any]:
    """Write eight documents, of which only the last has an assistant."""
    documents = [(tokens, [1] * len(tokens)) for tokens, _ in toy_documents(7)] + toy_documents(1, seed=5)
    return SETTINGS | {"train_data_path": [write_shard(folder / "silent", documents)]}


@pytest.mark.parametrize("normalization", ["token", "micro_batch"])
def test_a_micro_batch_without_targets_contributes_zero(tmp_path: Path, normalization: str) -> None:
    shape = {"global_batch_size": 8, "micro_batch_size": 1, "loss_normalization": normalization}
    run = start(SMALL, without_targets(tmp_path) | shape)
    report = run.step()
    documents = documents_of(run.config.data.train_data_path[0])
    total, targets, _ = losses_one_by_one(start(SMALL, without_targets(tmp_path)), documents)
    micro_batches = 8 if normalization == "micro_batch" else 1
    assert report.lm_loss == pytest.approx(total.item() / targets / micro_batches, rel=1e-6)
    assert 0 < report.grad_norm < 100
    assert not report.skipped


def test_a_batch_without_any_target_changes_nothing_and_counts_as_skipped(tmp_path: Path) -> None:
    documents = [(tokens, [1] * len(tokens)) for tokens, _ in toy_documents(8)]
    settings = SETTINGS | {"train_data_path": [write_shard(tmp_path / "silent", documents)], "weight_decay": 0.5}
    run = start(SMALL, settings | {"global_batch_size": 4, "packing": True})
    before = full_parameters(run.chunks)[0]
    report = run.step()
    assert (report.lm_loss, report.num_target_tokens, report.grad_norm) == (0.0, 0, 0.0)
    assert report.skipped
    assert (run.state.skipped_iterations, run.state.consumed_train_samples) == (1, 4)
    after = full_parameters(run.chunks)[0]
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_micro_batch_normalization_is_the_mean_of_micro_batch_means(tmp_path: Path) -> None:
    settings = write_documents(tmp_path, 8) | {"micro_batch_size": 2}
    run = start(SMALL, settings | {"global_batch_size": 2, "train_iters": 4})
    parts = [run.make_batch(run.samples, range(first, first + 2)) for first in (0, 2, 4, 6)]
    expected = 0.0
    for batch in parts:
        losses = run.chunks[0](batch.tokens, batch.position_ids, None, labels=batch.labels)
        expected += float((losses * batch.loss_mask).sum() / batch.loss_mask.sum()) / 4
    whole = start(SMALL, settings | {"global_batch_size": 8, "loss_normalization": "micro_batch"}).step()
    assert whole.lm_loss == pytest.approx(expected, rel=1e-6)


# ---- recomputation


@pytest.mark.parametrize("method", ["uniform", "block"])
def test_recomputation_is_right_for_every_number_of_layers(tmp_path: Path, method: str) -> None:
    settings = write_documents(tmp_path, 8) | {"global_batch_size": 4, "hidden_dropout": 0.25, "packing": True}
    plain = start(LLAMA, settings)
    expected = (plain.step(), full_gradients(plain.chunks)[0])
    for layers in (1, 2, 3, 4, 7):
        recompute = {"recompute_granularity": "full", "recompute_method": method, "recompute_num_layers": layers}
        run = start(LLAMA, settings | recompute)
        report, gradients = run.step(), full_gradients(run.chunks)[0]
        assert report.lm_loss == expected[0].lm_loss
        assert all(torch.equal(gradients[key], value) for key, value in expected[1].items())


# ---- dropout


def test_dropout_acts_in_training_only_and_each_iteration_draws_new_numbers(tmp_path: Path) -> None:
    settings = write_documents(tmp_path, 4) | {"global_batch_size": 4, "lr": 0.0}
    plain = [report.lm_loss for run in [start(SMALL, settings)] for report in (run.step(), run.step())]
    dropped = start(SMALL, settings | {"hidden_dropout": 0.25, "lima_dropout": True})
    losses = [dropped.step().lm_loss, dropped.step().lm_loss]
    assert plain[0] == pytest.approx(plain[1], rel=1e-6)
    assert len({*losses, plain[0]}) == 3


def test_parallel_residual_dropout_sum_draws_once(tmp_path: Path) -> None:
    settings = write_documents(tmp_path, 4) | {"global_batch_size": 4, "hidden_dropout": 0.25}
    model = MODELS["falcon_7b"]
    separate, total = (
        start(model, settings | {"parallel_residual_dropout": kind}).step().lm_loss for kind in ("separate", "sum")
    )
    without = start(model, settings | {"hidden_dropout": 0.0}).step().lm_loss
    assert len({separate, total, without}) == 3


# ---- resuming in one process


@dataclass(frozen=True)
class Trace:
    """The results of a run that must be equal to the last bit."""

    losses: list[float]
    grad_norms: list[float]
    loss_scales: list[float]
    parameters: dict[str, torch.Tensor]
    moments: list[torch.Tensor]
    steps: list[int]
    random_state: torch.Tensor


def trace(run: Run, iterations: int, evaluated: bool = True) -> Trace:
    reports = []
    for _ in range(iterations):
        reports.append(run.step())
        if evaluated:
            evaluate_one_batch(run)
    adam = [part.optimizer for part in run.optimizer.chained_optimizers]
    return Trace(
        [report.lm_loss for report in reports],
        [report.grad_norm for report in reports],
        [report.loss_scale for report in reports],
        full_parameters(run.chunks)[0],
        [state[name] for each in adam for state in each.state.values() for name in ("exp_avg", "exp_avg_sq")],
        [group["step"] for each in adam for group in each.param_groups],
        torch.get_rng_state(),
    )


def evaluate_one_batch(run: Run) -> None:
    config = replace(run.config, evaluation=replace(run.config.evaluation, eval_iters=1))
    assert replace(run, config=config).evaluate({"all": run.samples})["all"]["num_target_tokens"] > 0


def assert_same(one: Trace, other: Trace) -> None:
    assert (one.losses, one.grad_norms, one.steps) == (other.losses, other.grad_norms, other.steps)
    assert one.loss_scales == other.loss_scales
    assert one.parameters.keys() == other.parameters.keys()
    assert all(torch.equal(value, other.parameters[key]) for key, value in one.parameters.items())
    assert len(one.moments) == len(other.moments) > 0
    assert all(torch.equal(a, b) for a, b in zip(one.moments, other.moments, strict=True))
    assert torch.equal(one.random_state, other.random_state)


@pytest.mark.parametrize(
    "shape",
    [
        {"packing": True, "hidden_dropout": 0.25, "lima_dropout": True, "attention_dropout": 0.1},
        {"bf16": True, "hidden_dropout": 0.1},
        {"fp16": True, "initial_loss_scale": 64.0, "loss_scale_window": 2, "neftune_noise_alpha": 5.0},
        {"skip_spike_sigma": 0.01, "skip_spike_window": 16, "embedding_dropout": 0.5, "lr": 0.05},
    ],
    ids=["packed-lima", "bf16-padded", "fp16-neftune", "spikes"],
)
def test_resuming_is_bitwise_the_uninterrupted_run(
    tmp_path: Path, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run crosses the end of an epoch, with dropout and an evaluation after every iteration."""
    monkeypatch.setattr("megatron_train.optim.update.MIN_HISTORY", 2)
    settings = write_documents(tmp_path, 14) | {"global_batch_size": 4, "micro_batch_size": 2} | shape
    whole = start(SMALL, settings)
    assert whole.samples.rows_per_epoch < 6 * 4
    trace(whole, 3)
    expected = trace(whole, 3)
    assert ("skip_spike_sigma" not in shape) or 0 < whole.state.skipped_iterations < 6
    interrupted = start(SMALL, settings)
    trace(interrupted, 3)
    folder = save(interrupted, tmp_path / "checkpoints")
    torch.manual_seed(99)
    resumed = start(SMALL, settings, folder, resume=True)
    assert (resumed.state.iteration, resumed.state.consumed_train_samples) == (3, 12)
    assert_same(trace(resumed, 3), expected)


def test_an_evaluation_leaves_no_trace(tmp_path: Path) -> None:
    settings = write_documents(tmp_path, 14) | {"global_batch_size": 4, "hidden_dropout": 0.25}
    with_evaluations = trace(start(SMALL, settings), 3)
    assert_same(trace(start(SMALL, settings), 3, evaluated=False), with_evaluations)
