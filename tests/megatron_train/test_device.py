from __future__ import annotations

import importlib.metadata

import pytest
import torch

from megatron_train.parallel import device

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA nothing is redirected")


def test_another_megatron_core_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.17.0")
    with pytest.raises(RuntimeError, match=r"megatron-core 0.17.0 is installed; .* pip install megatron-core==0.16.1"):
        device.install()


def test_cuda_calls_of_megatron_core_land_on_the_cpu(single_process: None) -> None:
    assert torch.zeros(2, device="cuda").device.type == "cpu"
    assert torch.zeros(2, device=torch.cuda.current_device()).device.type == "cpu"
    x = torch.zeros(2)
    assert x.cuda() is x
    assert x.type() == "torch.cuda.FloatTensor"


def test_the_tracker_keeps_streams_apart_and_restores_them(single_process: None) -> None:
    from megatron.core.tensor_parallel import random

    torch.manual_seed(1)
    tracker = random.CudaRNGStatesTracker()
    tracker.add("model-parallel-rng", 5)
    tracker.add("other", 6)
    before = torch.get_rng_state()
    with tracker.fork("model-parallel-rng"):
        first = torch.rand(2)
        with tracker.fork("other"):
            other = torch.rand(2)
        second = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(4), torch.cat([first, second]))
    torch.manual_seed(6)
    assert torch.equal(torch.rand(2), other)


def test_megatron_core_uses_our_adam(single_process: None) -> None:
    import megatron.core.optimizer as optimizer

    from megatron_train.optim.adam import FusedLayoutAdam

    assert optimizer.Adam is FusedLayoutAdam
