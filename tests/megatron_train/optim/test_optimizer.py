from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_train.certificate.tensors import full_parameters
from megatron_train.optim.adam import FusedLayoutAdam
from megatron_train.optim.optimizer import set_rates
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA, MODELS
from tests.megatron_train.runs import save, start

pytestmark = pytest.mark.usefixtures("single_process")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    return {"train_data_path": [write_shard(tmp_path / "toy", toy_documents(8))], "global_batch_size": 4}


def test_megatron_core_uses_our_adam(settings: dict[str, object]) -> None:
    run = start(LLAMA, settings)
    assert {type(part.optimizer) for part in run.optimizer.chained_optimizers} == {FusedLayoutAdam}


def test_weights_decay_and_one_dimensional_parameters_do_not(settings: dict[str, object]) -> None:
    """A large eps makes the gradient's part negligible, so only weight decay changes the parameters."""
    run = start(MODELS["neox_parallel"], settings | {"lr": 1.0, "weight_decay": 0.25, "adam_eps": 1e9})
    before = full_parameters(run.chunks)[0]
    run.step()
    after = full_parameters(run.chunks)[0]
    kinds = {"layernorm": 1.0, "layer_norm": 1.0, "bias": 1.0, "weight": 0.75}
    for key, value in after.items():
        kind = next(name for name in kinds if name in key)
        torch.testing.assert_close(value, before[key] * kinds[kind], rtol=1e-5, atol=1e-6, msg=key)


def test_gradients_are_clipped_to_the_norm(settings: dict[str, object]) -> None:
    """With a large eps, Adam's update is lr x gradient / eps, so its length shows that of the clipped gradient."""
    adam: dict[str, object] = {"lr": 1.0, "adam_eps": 1e4, "weight_decay": 0.0, "lr_decay_style": "constant"}
    for limit in (0.25, 0.0):
        run = start(LLAMA, settings | adam | {"clip_grad": limit})
        before = full_parameters(run.chunks)[0]
        report = run.step()
        after = full_parameters(run.chunks)[0]
        moved = sum(float((after[key] - before[key]).double().pow(2).sum()) for key in before) ** 0.5 * 1e4
        assert report.grad_norm > 0.5
        assert moved == pytest.approx(limit or report.grad_norm, rel=2e-2)


def test_set_rates_reaches_every_group_and_spares_what_does_not_decay(settings: dict[str, object]) -> None:
    run = start(LLAMA, settings)
    set_rates(run.optimizer, 3e-4, 0.1)
    assert [group["lr"] for group in run.optimizer.param_groups] == [3e-4, 3e-4]
    assert sorted(group["weight_decay"] for group in run.optimizer.param_groups) == [0.0, 0.1]


def test_an_iteration_with_infinite_gradients_changes_nothing(settings: dict[str, object]) -> None:
    for precision in ({}, {"bf16": True}, {"fp16": True, "initial_loss_scale": 1024.0, "hysteresis": 1}):
        run = start(LLAMA, settings | precision | {"lr": 1e-2})
        weight = next(iter(run.chunks[0].parameters()))
        handle = weight.register_hook(lambda gradient: gradient * float("inf"))
        before = full_parameters(run.chunks)[0]
        report = run.step()
        assert report.skipped
        assert run.state.skipped_iterations == 1
        after = full_parameters(run.chunks)[0]
        assert all(torch.equal(after[key], before[key]) for key in before)
        handle.remove()
        assert not run.step().skipped


def test_a_run_with_only_skipped_iterations_can_be_saved_and_resumed(
    settings: dict[str, object], tmp_path: Path
) -> None:
    run = start(LLAMA, settings | {"lr": 1e-2})
    handle = next(iter(run.chunks[0].parameters())).register_hook(lambda gradient: gradient * float("nan"))
    assert run.step().skipped
    handle.remove()
    folder = save(run, tmp_path / "checkpoints")
    expected = run.step().lm_loss
    assert start(LLAMA, settings | {"lr": 1e-2}, folder, resume=True).step().lm_loss == expected


def test_the_loss_scale_halves_after_overflows_and_doubles_after_good_iterations(settings: dict[str, object]) -> None:
    """With hysteresis 2, the second overflow halves the scale; 3 good iterations double it. The minimum bounds it."""
    scales: dict[str, object] = {"initial_loss_scale": 1024.0, "loss_scale_window": 3, "min_loss_scale": 512.0}
    run = start(LLAMA, settings | scales | {"fp16": True, "hysteresis": 2, "lr": 1e-3})
    weight = next(iter(run.chunks[0].parameters()))
    handle = weight.register_hook(lambda gradient: gradient * float("inf"))
    overflowing = [run.step() for _ in range(4)]
    handle.remove()
    good = [run.step() for _ in range(3)]
    assert [report.loss_scale for report in overflowing] == [1024.0, 512.0, 512.0, 512.0]
    assert [report.skipped for report in overflowing + good] == [True] * 4 + [False] * 3
    assert [report.loss_scale for report in good] == [512.0, 512.0, 1024.0]


def test_fp16_and_bf16_start_with_the_loss_and_gradient_of_fp32(settings: dict[str, object]) -> None:
    full, half, brain = (
        start(LLAMA, settings | precision).step() for precision in ({}, {"fp16": True}, {"bf16": True})
    )
    for report in (half, brain):
        assert report.lm_loss == pytest.approx(full.lm_loss, rel=5e-3)
        assert report.grad_norm == pytest.approx(full.grad_norm, rel=5e-2)


def test_a_skipped_iteration_does_not_advance_the_schedule(settings: dict[str, object]) -> None:
    """As in the original, the learning rate counts applied updates, and the data position counts all iterations."""
    run = start(LLAMA, settings | {"lr": 1e-2, "lr_warmup_iters": 10, "skip_iters": [2]})
    assert [run.step().lr for _ in range(4)] == pytest.approx([0.0, 1e-3, 1e-3, 2e-3])
    assert run.state.consumed_train_samples == 16
