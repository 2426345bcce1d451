"""Count the kernels and the waits for the device in a CUDA run of the trainer, on a machine without a GPU.

    python -m tests.megatron_train.cuda_probe '{"packing": true}' '{"tensor_model_parallel_size": 8}'

Tensors are on torch's meta device and claim to be on CUDA, so that the code takes its CUDA branches. The process group
is torch's fake one. Each function that reads a tensor's value on the host is recorded and returns a fixed value. For
models of one and three layers, the program prints the kernels of a forward and backward pass, and the waits of building
the model, of the pass, and of the sums after it.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
DOCUMENTS = (60, 51, 90, 30, 70, 40, 68, 103)
"""Numbers of tokens of the packed documents. Their sum is 512."""
ANSWERS: dict[Any, Any] = {
    torch.Tensor.item: 0.5,
    torch.Tensor.__bool__: False,
    torch.Tensor.__float__: 0.5,
    torch.Tensor.__int__: 1,
    torch.Tensor.tolist: [],
    torch.Tensor.cpu: None,
    torch.Tensor.nonzero: None,
}
"""Functions that wait for the device -> the value that each returns here."""


class MetaAsCuda(TorchFunctionMode):
    """Puts CUDA tensors on the meta device, and records each function that reads one on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()

    def take(self) -> dict[str, int]:
        """Return the waits recorded since the last call, by function and source line."""
        waits, self.waits = dict(self.waits), collections.Counter()
        return waits

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = META
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if first is not None:
            is_meta = torch.Tensor.is_meta.__get__(first)  # type: ignore[attr-defined]
            if func is torch.Tensor.cuda:
                return first if is_meta else first.to(META)
            if func is torch.Tensor.type and len(args) == 1:
                return "torch.cuda." + func(*args).rsplit(".", 1)[-1]
            if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
                return is_meta
            if func is torch.Tensor.pin_memory:
                return first
            if is_meta and func in ANSWERS:
                frame = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename][-1]
                self.waits[f"{func.__name__} {frame.filename.split('site-packages/')[-1]}:{frame.lineno}"] += 1
                return [0.5] * first.numel() if func is torch.Tensor.tolist else ANSWERS[func]
        if func is torch.tensor and kwargs.get("device") == META:
            frame = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename][-1]
            self.waits[f"torch.tensor {frame.filename}:{frame.lineno}"] += 1  # a blocking copy from the host
        return func(*args, **kwargs)


class KernelCount(TorchDispatchMode):
    """Counts the operations that launch a kernel. Views and allocations do not."""

    VIEWS = frozenset({
        "view", "t", "transpose", "permute", "slice", "split", "split_with_sizes", "unsqueeze", "squeeze", "expand",
        "select", "detach", "_unsafe_view", "alias", "as_strided", "empty", "empty_like", "unbind", "new_empty",
        "new_empty_strided", "empty_strided", "chunk", "narrow", "_reshape_alias", "lift_fresh",
    })  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.kernels: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name not in self.VIEWS:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))


def pose_as_cuda() -> None:
    """Replace the queries of torch.cuda and the random states, before megatron-core is imported."""
    import megatron.core  # noqa: F401 - its import needs the real torch.cuda

    cuda: Any = torch.cuda
    state = torch.get_rng_state()
    cuda.is_available, cuda.device_count = lambda: True, lambda: 8
    cuda.current_device, cuda.get_device_name = lambda: META, lambda *_: "NVIDIA H100 80GB HBM3"
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.synchronize = cuda.empty_cache = cuda.manual_seed = cuda.set_device = lambda *_, **__: None
    cuda.get_rng_state, cuda.set_rng_state = lambda device="cuda": state, lambda state, device="cuda": None
    from megatron.core.distributed import param_and_grad_buffer
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: state
    random._set_cuda_rng_state = lambda *_, **__: None
    random.CudaRNGStatesTracker.fork = _fork
    # torch has no meta kernel of the coalesced reduce-scatter.
    param_and_grad_buffer._ParamAndGradBucketGroup.start_grad_sync = lambda self, force_all_reduce=False: None


@contextlib.contextmanager
def _fork(self: Any, name: str = "") -> Iterator[None]:
    yield


def probe(settings: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return the waits and kernels of one micro-batch through `layers` layers of Llama 3 8B at 1/16 of its width."""
    from megatron_train.config.flags import config_from_settings
    from megatron_train.config.model_config import ModelConfig
    from megatron_train.data import loader
    from megatron_train.data.batch import LossRule, packed_batch, padded_batch
    from megatron_train.model.build import build_model
    from megatron_train.optim.optimizer import build_optimizer, wrap_model
    from megatron_train.parallel import distributed
    from megatron_train.train_step import forward_backward, global_sums

    config = config_from_settings({"seq_length": 512, "bf16": True, "train_iters": 2} | settings, "probe")
    if not dist.is_initialized():
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    loader.device = distributed.device = lambda: META
    distributed.world_size = lambda: 8
    distributed.init_distributed(config.parallel, 0)
    model = ModelConfig.load("configs/model/llama3_8b.yaml")
    model = replace(model, num_layers=layers, hidden_size=512, ffn_hidden_size=896, kv_channels=64)
    model = replace(model, num_attention_heads=8, num_query_groups=8)
    rule, pose = LossRule((2,), "label", False, 0.0), MetaAsCuda()

    def document(size: int) -> Any:
        return np.full(size + 1, 5), np.full(size + 1, 2)

    with pose:
        chunks = wrap_model(build_model(model, config), config)
        optimizer = build_optimizer(chunks, config)
        building = pose.take()
        if config.data.packing:
            rows = packed_batch([[document(size) for size in DOCUMENTS]], 512, 0, rule)
        else:
            rows = padded_batch([document(500)], 512, 0, rule)
        batch = loader.to_device(loader.HostBatch.of(rows))
        batch.loss_factor = 1.0 / batch.loss_weight
        counted = KernelCount()
        with counted:
            outputs = forward_backward(chunks, optimizer, [batch])
        passes = pose.take()
        global_sums(outputs, [batch])
    kernels = sum(counted.kernels.values())
    return {"build": building, "pass": passes, "sums": pose.take(), "kernels": kernels, "by_kernel": counted.kernels}


def main() -> None:
    pose_as_cuda()
    from megatron_train.parallel.device import install, quiet_known_warnings

    quiet_known_warnings()
    install("cuda")
    cases = [json.loads(case) for case in sys.argv[1:]]
    print(json.dumps([[probe(settings, layers) for layers in (1, 3)] for settings in cases]))


if __name__ == "__main__":
    main()
