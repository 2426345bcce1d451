"""A Run in four processes: packing over stages, evaluation, resumption in other layouts, NaN on one rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.certificate.tensors import full_gradients, full_parameters
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.loader import BatchMaker
from megatron_train.data.sft_dataset import evaluation_samples
from megatron_train.parallel.distributed import seed_rank
from megatron_train.run import Run
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.megatron_train.runs import save, start
from tests.megatron_train.tensors import documents_of, losses_one_by_one
from tests.megatron_train.test_train import write_documents

pytestmark = pytest.mark.usefixtures("single_process")

LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2-pp2-sp-uneven": {
        "tensor_model_parallel_size": 2,
        "pipeline_model_parallel_size": 2,
        "sequence_parallel": True,
        "decoder_first_pipeline_num_layers": 3,
    },
    "pp2-vpp2-dp2": {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
    "tp2-dp2": {"tensor_model_parallel_size": 2},
}
RUN: dict[str, Any] = {"global_batch_size": 8, "micro_batch_size": 2, "packing": True, "clip_grad": 0.0}


@dataclass(frozen=True)
class FourProcesses:
    """Results of the launch of four processes, by layout."""

    gradients: dict[str, Any]
    resumed: dict[str, list[float]]
    saved: dict[str, str]
    same_layout: dict[str, bool]
    streams: dict[str, list[tuple[Any, float, float]]]
    evaluated: dict[str, dict[str, float]]
    one_document: dict[str, dict[str, float]]
    """Evaluation of a set of one document, for which most ranks have only padding."""
    poisoned: dict[str, tuple[float, bool, bool, bool]]
    """After NaN in one micro-batch of the last rank: loss, skipped, weights unchanged, next iteration applied."""


def run_four_processes(settings: dict[str, Any], folder: Path, valid_prefix: str) -> FourProcesses:
    """Run all cases on this rank. `folder` holds one-process checkpoints of before and after the first iteration."""
    gradients, resumed, saved, same, streams, evaluated, lonely, poisoned = {}, {}, {}, {}, {}, {}, {}, {}
    for name, layout in LAYOUTS.items():
        run = start(LLAMA, settings | layout, folder / "one" / "iter_0000001", resume=True)
        resumed[name] = [run.step().lm_loss for _ in range(2)]

        streams[name] = random_streams(run)
        run = start(LLAMA, settings | layout, folder / "one" / "iter_0000000")
        for packing, size in ((True, 1), (False, 2)):
            data = replace(run.config.data, packing=packing)
            config = replace(run.config, data=data, batch=replace(run.config.batch, micro_batch_size=size))
            samples = evaluation_samples(DocumentSet([valid_prefix]), None, data)
            other = replace(run, config=config, make_batch=BatchMaker(data, 0, LLAMA.vocab_size))
            key = f"{name}-{'packed' if packing else f'padded{size}'}"
            if packing or "pp" not in name:  # padded rows of different widths: the stages must also send the shapes
                evaluated[key] = other.evaluate({"v": samples})["v"]
        single = evaluation_samples(DocumentSet([valid_prefix]), np.array([4]), run.config.data)
        lonely[name] = run.evaluate({"v": single})["v"]
        run.step()
        if "dp" not in name:
            gradients[name] = full_gradients(run.chunks)[0]
        saved[name] = str(save(run, folder / name))
        expected = run.step().lm_loss
        again = start(LLAMA, settings | layout, Path(saved[name]), resume=True)
        found = again.step().lm_loss
        parameters, others = full_parameters(again.chunks)[0], full_parameters(run.chunks)[0]
        same[name] = found == expected and all(torch.equal(parameters[key], others[key]) for key in parameters)
        poisoned[name] = poisoned_step(again)
    return FourProcesses(gradients, resumed, saved, same, streams, evaluated, lonely, poisoned)


def poisoned_step(run: Run) -> tuple[float, bool, bool, bool]:
    """Put NaN in the second micro-batch of the last rank only. Every rank must skip the iteration."""
    before, calls = full_parameters(run.chunks)[0], []

    def poison(module: Any, inputs: Any, output: Any) -> Any:
        calls.append(None)
        return (output[0] * math.nan, *output[1:]) if len(calls) == 2 else None

    last = run.chunks[-1].module.decoder.layers[-1]
    handles = [last.register_forward_hook(poison)] if dist.get_rank() == 3 else []
    report = run.step()
    for handle in handles:
        handle.remove()
    after = full_parameters(run.chunks)[0]
    unchanged = all(torch.equal(after[key], before[key]) for key in before)
    return report.lm_loss, report.skipped, unchanged, not run.step().skipped


def random_streams(run: Run) -> list[tuple[Any, float, float]]:
    """Return each rank's coordinates, and the next number of its default and its tensor-parallel random stream."""
    from megatron.core import tensor_parallel

    seed_rank(7)
    plain = float(torch.rand(()))
    with tensor_parallel.get_cuda_rng_tracker().fork():
        own = float(torch.rand(()))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (run.layout.coordinates(dist.get_rank()), plain, own))
    return everyone


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, single_process: None) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("train")
    settings = write_documents(folder, 40) | RUN
    run = start(LLAMA, settings)
    save(run, folder / "one")
    run.step()
    save(run, folder / "one")
    return folder, settings


@pytest.fixture(scope="module")
def four(one_process: tuple[Path, dict[str, Any]]) -> FourProcesses:
    folder, settings = one_process
    valid = write_shard(folder / "valid", toy_documents(13, seed=9))
    return run_distributed(run_four_processes, 4, settings, folder, valid, timeout=400)[0]


def test_packed_rows_over_stages_give_the_gradient_of_the_documents_one_by_one(
    one_process: tuple[Path, dict[str, Any]], four: FourProcesses
) -> None:
    folder, settings = one_process
    run = start(LLAMA, settings, folder / "one" / "iter_0000000")
    total, targets = torch.zeros(()), 0
    for index in range(8):
        loss_sum, count, _ = losses_one_by_one(run, run.samples.row(index))
        total, targets = total + loss_sum, targets + count
    (total / targets).backward()
    expected = full_gradients(run.chunks)[0]
    found = four.gradients["tp2-pp2-sp-uneven"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert float((found[key] - value).abs().max()) < 1e-5 * float(value.abs().max()), key


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resuming_in_another_layout_equals_one_process(
    layout: str, one_process: tuple[Path, dict[str, Any]], four: FourProcesses
) -> None:
    folder, settings = one_process
    run = start(LLAMA, settings, folder / "one" / "iter_0000001", resume=True)
    expected = [run.step().lm_loss for _ in range(2)]
    assert four.resumed[layout] == pytest.approx(expected, rel=1e-5)
    assert four.resumed[layout][0] == pytest.approx(expected[0], rel=1e-6)
    back = start(LLAMA, settings, Path(four.saved[layout]), resume=True)
    assert [back.step().lm_loss for _ in range(2)] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resuming_in_the_same_layout_is_bitwise(layout: str, four: FourProcesses) -> None:
    assert four.same_layout[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_streams_differ_over_replicas_and_stages_but_not_over_tensor_ranks(
    layout: str, four: FourProcesses
) -> None:
    """Every tensor-parallel rank holds the whole residual stream, so all must draw the same dropout."""
    plain = {coordinates[1:]: number for coordinates, number, _ in four.streams[layout]}
    assert all(number == plain[coordinates[1:]] for coordinates, number, _ in four.streams[layout])
    assert len(set(plain.values())) == len(plain)
    assert len({own for _, _, own in four.streams[layout]}) == 4


def test_evaluation_is_the_same_in_any_layout_and_shape(
    one_process: tuple[Path, dict[str, Any]], four: FourProcesses
) -> None:
    folder, settings = one_process
    run = start(LLAMA, settings, folder / "one" / "iter_0000000")
    total, targets, right = losses_one_by_one(run, documents_of(str(folder / "valid")))
    assert len(four.evaluated) == 4
    for result in four.evaluated.values():
        assert result["loss"] == pytest.approx(total.item() / targets, rel=1e-6)
        assert result["ppl"] == pytest.approx(np.exp(total.item() / targets), rel=1e-5)
        assert result["num_target_tokens"] == targets
        assert result["token_accuracy"] == pytest.approx(right / targets, abs=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_on_one_rank_leaves_out_the_iteration_on_all(layout: str, four: FourProcesses) -> None:
    loss, *rest = four.poisoned[layout]
    assert math.isnan(loss)
    assert rest == [True, True, True]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_evaluation_set_smaller_than_a_batch(
    layout: str, one_process: tuple[Path, dict[str, Any]], four: FourProcesses
) -> None:
    folder, settings = one_process
    run = start(LLAMA, settings, folder / "one" / "iter_0000000")
    total, targets, right = losses_one_by_one(run, documents_of(str(folder / "valid"))[4:5])
    found = four.one_document[layout]
    assert found["loss"] == pytest.approx(total.item() / targets, rel=1e-6)
    assert (found["num_target_tokens"], found["token_accuracy"]) == (targets, pytest.approx(right / targets))
