"""An evaluation gives the same numbers in any batch shape. test_train_layouts.py compares parallel layouts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.flags import config_from_settings
from megatron_train.config.settings import Data
from megatron_train.data.document_set import DocumentSet
from megatron_train.data.sft_dataset import evaluation_samples
from megatron_train.evaluate import EvaluationSets, predicted_ids
from megatron_train.run import Run
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.megatron_train.runs import enter_layout, start
from tests.megatron_train.tensors import documents_of, losses_one_by_one

pytestmark = pytest.mark.usefixtures("single_process")
SMALL = replace(LLAMA, num_layers=2)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return write_shard(tmp_path / "valid", toy_documents(11, seed=3))


def run_of(prefix: str, **settings: Any) -> Run:
    return start(SMALL, {"train_data_path": [prefix], "hidden_dropout": 0.2} | settings)


def test_a_validation_set_and_a_test_set_may_have_one_name(prefix: str) -> None:
    samples = evaluation_samples(DocumentSet([prefix]), None, Data())
    names = EvaluationSets({"v": samples, "w": samples}, {"v": samples, "x": samples}).by_name()
    assert list(names) == ["v", "w", "v (test)", "x"]


def result(run: Run, prefix: str) -> dict[str, float]:
    samples = evaluation_samples(DocumentSet([prefix]), None, run.config.data)
    return run.evaluate({"v": samples})["v"]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_every_document_counts_once_in_any_shape(prefix: str, packing: bool, size: int) -> None:
    run = run_of(prefix, packing=packing, micro_batch_size=size)
    found = result(run, prefix)
    run.chunks[0].eval()
    total, targets, right = losses_one_by_one(run, documents_of(prefix))
    assert found["num_target_tokens"] == targets
    assert found["loss"] == pytest.approx(total.item() / targets, rel=1e-6)
    assert found["ppl"] == pytest.approx(math.exp(total.item() / targets), rel=1e-5)
    assert found["token_accuracy"] == pytest.approx(right / targets, abs=1e-12)


def test_eval_iters_takes_so_many_global_batches(prefix: str) -> None:
    run = run_of(prefix, eval_iters=2, global_batch_size=3, micro_batch_size=1)
    _, targets, _ = losses_one_by_one(run, documents_of(prefix)[:6])
    assert result(run, prefix)["num_target_tokens"] == targets


def test_a_set_without_targets_has_no_loss(tmp_path: Path) -> None:
    prefix = write_shard(tmp_path / "silent", [([5, 6, 7], [1, 1, 1])])
    found = result(run_of(prefix), prefix)
    assert (math.isnan(found["loss"]), math.isnan(found["ppl"]), found["num_target_tokens"]) == (True, True, 0)


def test_the_model_trains_on_afterwards(prefix: str) -> None:
    run = run_of(prefix)
    result(run, prefix)
    assert run.chunks[0].training
    assert next(iter(run.chunks[0].parameters())).requires_grad


TIES = [[1.0, 3.0, 3.0, 2.0], [0.0, 1.0, 5.0, 5.0], [2.0, 7.0, 7.0, 7.0], [4.0, 4.0, 4.0, 4.0], [0.0, 1.0, 2.0, 3.0]]
"""Logits of four tokens at five positions. In the first and third, both of two ranks hold the highest logit."""


def predicted_on_two_ranks() -> list[int]:
    enter_layout(config_from_settings({"tensor_model_parallel_size": 2}, "test"))
    rank = parallel_state.get_tensor_model_parallel_rank()
    logits = torch.tensor([TIES], dtype=torch.bfloat16)[..., 2 * rank : 2 * rank + 2]
    return [int(token) for token in predicted_ids(logits)[0]]


def test_the_lowest_id_of_equal_logits_is_the_prediction(prefix: str) -> None:
    run_of(prefix)
    logits = torch.tensor([TIES], dtype=torch.bfloat16)
    assert predicted_ids(logits).tolist() == [[1, 2, 1, 0, 3]]
    assert run_distributed(predicted_on_two_ranks, world_size=2) == [[1, 2, 1, 0, 3]] * 2
