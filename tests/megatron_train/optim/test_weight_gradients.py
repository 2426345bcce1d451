"""Weight gradients in fp32: which kernel adds them, and the same gradients from either way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megatron_train.optim import optimizer, weight_gradients
from megatron_train.optim.weight_gradients import (
    Accumulation,
    add_product,
    add_product_in_16_bits,
    choose_accumulation,
    gives_right_sum,
)
from megatron_train.train_step import forward_backward
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import MODELS
from tests.megatron_train.runs import start


@pytest.mark.parametrize(
    ("dtype", "on_cuda", "has_apex", "is_local", "works", "kernel"),
    [
        (torch.bfloat16, True, True, True, False, "apex"),
        (torch.bfloat16, True, False, True, True, "torch"),
        (torch.float16, True, False, True, True, "torch"),
        (torch.bfloat16, True, False, True, False, "separate"),
        (torch.bfloat16, False, True, True, False, "separate"),
        (torch.float32, False, False, True, False, "separate"),
        (torch.float32, True, False, True, False, "torch"),
        (torch.bfloat16, True, True, False, True, "separate"),
    ],
)
def test_choose_accumulation(
    dtype: torch.dtype, on_cuda: bool, has_apex: bool, is_local: bool, works: bool, kernel: str
) -> None:
    assert choose_accumulation(dtype, on_cuda, has_apex, is_local, works).kernel == kernel


def test_add_product_adds_to_the_buffer() -> None:
    buffer = torch.ones(2, 3)
    add_product(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0]]), buffer)
    assert buffer.tolist() == [[11.0, 21.0, 31.0], [21.0, 41.0, 61.0]]


def test_a_kernel_that_fails_or_is_wrong_is_found() -> None:
    def wrong(inputs: Tensor, gradients: Tensor, buffer: Tensor) -> None:
        buffer.copy_(gradients.t() @ inputs)

    assert gives_right_sum(add_product, torch.float32)
    assert not gives_right_sum(wrong, torch.float32)
    assert not gives_right_sum(add_product_in_16_bits, torch.bfloat16)  # torch has no such kernel on the CPU


def gradients(kind: str, prefix: str) -> list[Tensor]:
    """Return the fp32 gradient buffers after the two micro-batches of one iteration of a small model."""
    run = start(replace(MODELS[kind], num_layers=2), {"global_batch_size": 2, "train_data_path": [prefix]})
    forward_backward(run.chunks, run.optimizer, run._read_global_batch())
    return [buffer.grad_data.clone() for chunk in run.chunks for buffer in chunk.buffers]


@pytest.mark.parametrize("kind", ["qwen2", "neox_parallel", "falcon_7b"])
def test_both_ways_give_the_same_gradients(
    kind: str, single_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, calls = write_shard(tmp_path / "toy", toy_documents(8)), []

    def counted(*tensors: Tensor) -> None:
        calls.append(1)
        add_product(*tensors)

    monkeypatch.setattr(weight_gradients, "add_product", counted)
    monkeypatch.setattr(optimizer, "planned_accumulation", lambda *_: Accumulation("torch", ""))
    fused = gradients(kind, prefix)
    assert len(calls) == 2 * 2 * 4  # micro-batches, layers, linear layers in each
    monkeypatch.setattr(optimizer, "planned_accumulation", lambda *_: Accumulation("separate", ""))
    separate = gradients(kind, prefix)
    assert len(calls) == 2 * 2 * 4
    for one, other in zip(fused, separate, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
