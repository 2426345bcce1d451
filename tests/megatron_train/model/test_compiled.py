"""--compile: the same numbers from Inductor's kernels, and the operations themselves where it fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megatron_train.config.flags import config_from_settings
from megatron_train.data.batch import LossRule, packed_batch
from megatron_train.data.loader import HostBatch, to_device
from megatron_train.model import compiled as module
from megatron_train.model.build import build_model
from megatron_train.model.compiled import Compiled, LayerConfig, Operation, operation_for
from megatron_train.model.norm import add_and_norm
from megatron_train.parallel.distributed import init_distributed
from tests.megatron_train.models import MODELS


def double(x: Tensor) -> Tensor:
    return x * 2


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no compiler\nsecond line")


def test_the_function_itself_runs_where_compilation_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module._warn_once.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: fail)
    first, second = Compiled(double), Compiled(double)
    assert [first(torch.ones(1)).item(), first(torch.ones(1)).item(), second(torch.ones(1)).item()] == [2.0, 2.0, 2.0]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith("so operations run uncompiled: no compiler")


def test_an_error_of_the_function_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    with pytest.raises(TypeError):
        Compiled(double)(torch.ones(1), torch.ones(1))


def test_operations_are_compiled_on_request_only() -> None:
    operation = Operation(double, double)
    settings: dict[str, Any] = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1}
    assert operation_for(LayerConfig(**settings), operation) is operation
    asked = operation_for(LayerConfig(compile_operations=True, **settings), operation)
    assert isinstance(asked.forward, Compiled) and asked.forward.function is double


@pytest.mark.parametrize("norm", [nn.RMSNorm(24, eps=1e-6), nn.LayerNorm(24)])
def test_add_and_norm_is_torchs(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_train.model.norm.compiled", lambda operation: operation)
    torch.manual_seed(0)
    nn.init.normal_(norm.weight)
    x, residual, weight = torch.randn(3, 5, 2, 24).double()
    inputs = [x.clone().requires_grad_(), residual.clone().requires_grad_(), *norm.double().parameters()]
    theirs = norm(inputs[0] + inputs[1])
    expected = [theirs, *torch.autograd.grad((theirs * weight).sum() + (inputs[0] + inputs[1]).square().sum(), inputs)]
    total, ours = add_and_norm(inputs[0], inputs[1], norm)
    found = [ours, *torch.autograd.grad((ours * weight).sum() + total.square().sum(), inputs)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def outputs(kind: str, compiled: bool) -> tuple[list[Tensor], list[Any]]:
    """Return the logits, and the gradients of all parameters, of a packed row through a model of two layers."""
    config = config_from_settings({"seq_length": 64, "packing": True, "compile": compiled}, "test")
    init_distributed(config.parallel, 5)
    (chunk,) = build_model(replace(MODELS[kind], num_layers=2), config)
    documents = [(np.arange(3, 3 + size), np.full(size, 2)) for size in (20, 31, 12)]
    batch = to_device(HostBatch.of(packed_batch([documents], 64, 0, LossRule())))
    logits = chunk(batch.tokens, batch.position_ids, None, packed_seq_params=batch.packed)
    F.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten()).backward()
    return [logits, *(parameter.grad for parameter in chunk.parameters())], list(chunk.decoder.layers)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["llama", "qwen2", "neox_sequential", "neox_parallel"])
def test_inductors_kernels_give_the_same_logits_and_gradients(kind: str, single_process: None) -> None:
    expected, _ = outputs(kind, compiled=False)
    found, layers = outputs(kind, compiled=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    rotation = layers[0].self_attention.rotation
    assert rotation.forward.compiled is not None and rotation.backward.compiled is not None
