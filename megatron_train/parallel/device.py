"""SHARED: choose between CUDA and the CPU, and patch megatron-core for that device. No other file does either.

    from megatron_train.parallel.device import install
    install()          # before any model, optimizer or process group is built

On CUDA, only the Adam class is replaced, and only when neither Transformer Engine nor Apex is installed. On the CPU,
megatron-core's literal `device="cuda"`, `torch.cuda.*` getters and RNG tracker are redirected to the CPU. The versions
of megatron-core are 0.16.1 and, for tests, 0.19.2; docs/gpu.md says what passes with it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import queue
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from megatron_train.report.console import warn
from pretokenizer.config.yaml_config import ConfigError

MEGATRON_CORE_VERSION = "0.16.1"
"""The version of megatron-core that pyproject.toml installs."""
OTHER_MEGATRON_CORE_VERSIONS = ("0.19.2",)
"""Versions that are accepted, on Python 3.12, for `make engines`, which runs the tests on them."""
DEVICE_VARIABLE = "OASST_DEVICE"
"""Environment variable that chooses the device: `auto` (the default), `cpu` or `cuda`."""
CPU = torch.device("cpu")
_mode: TorchFunctionMode | None = None

_NOISE = (
    ".*(Transformer Engine|Apex).*",
    ".*core_attn recompute.*",
    ".*torch.jit.script.*",
    ".*(_all_gather_base|all_gather_into_tensor|reduce_scatter_tensor).*",
    ".*TypedStorage is deprecated.*",
    ".*pynvml package is deprecated.*",
    ".*`torch.cuda.*",
    ".*nvidia_resiliency_ext.*",
    ".*Environment variable.*NCCL.*",
    ".*full scope is deprecated.*",
    ".*is not a leaf Tensor is being accessed.*",
    ".*Please use DTensor instead.*",
    ".*`load_state_dict` is deprecated.*",
    ".*`save_state_dict` is deprecated.*",
    ".*CUDA_DEVICE_MAX_CONNECTIONS.*",
)
_NOTICES = {
    "dist_checkpointing.strategies.common": "load_common is deprecated",
    "distributed.distributed_data_parallel": "full_param_layout not provided",
    "models.gpt.gpt_model": "GPTModel IS DEPRECATED",
    "transformer.transformer_layer": "Rewrapping ModuleSpec",
}
"""Module of megatron-core 0.19 -> a notice to its own callers that it logs as a warning."""


class CudaAsCpu(TorchFunctionMode):
    """Makes torch calls that ask for CUDA use the CPU, while the mode is active.

    device="cuda" means the CPU, and Tensor.cuda() returns the tensor itself. Tensor.type() returns the name of the CUDA
    type, because megatron-core compares it with such names.
    """

    def __torch_function__(self, func: Callable[..., Any], kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kwargs:
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cuda":
                kwargs = {**kwargs, "device": CPU}
            return func(*args, **kwargs)
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1:
            return "torch.cuda." + func(*args).rsplit(".", 1)[-1]
        return func(*args)


def uses_cuda() -> bool:
    """Return whether this process computes on CUDA, and not on the CPU. No other code chooses the device.

    The environment variable OASST_DEVICE is `auto` (the default), `cpu` or `cuda`. `auto` means CUDA if the machine has
    a device for each of its ranks, else the CPU. Raises ConfigError for another value, and for `cuda` without enough
    devices.
    """
    wanted = os.environ.get(DEVICE_VARIABLE, "auto")
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"{DEVICE_VARIABLE}={wanted}: choose auto, cpu or cuda")
    if wanted == "cpu":
        return False
    devices, ranks = num_cuda_devices(), ranks_on_these_devices()
    if wanted == "cuda" and devices < ranks:
        raise ConfigError(
            f"--device cuda: this machine has {devices} usable CUDA devices for {ranks} ranks; start at most {devices} "
            "ranks here, check the driver and CUDA_VISIBLE_DEVICES, or give --device cpu"
        )
    return devices >= ranks


def num_cuda_devices() -> int:
    """Return how many CUDA devices this process can use; 0 without a working driver."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def ranks_on_these_devices() -> int:
    """Return how many ranks share the CUDA devices that this process sees: usually all ranks of the machine.

    The number is 1 under Slurm with --gpus-per-task 1, which shows each rank only its own device.
    """
    bound = os.environ.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2] == "1"
    return 1 if bound else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def device_index() -> int:
    """Return the index of this rank's CUDA device: 0 if it sees one device only, else its local rank.

    Raises ConfigError when the machine has no device with that index.
    """
    local_rank, devices = int(os.environ.get("LOCAL_RANK", "0")), num_cuda_devices()
    if devices == 1:
        return 0
    if local_rank >= devices:
        raise ConfigError(
            f"LOCAL_RANK {local_rank}, but this machine has {devices} CUDA devices; start at most {devices} ranks here"
        )
    return local_rank


def warn_of_unused_devices() -> None:
    """Warn when OASST_DEVICE is `auto` and this machine has fewer CUDA devices than ranks, so that the CPU is used."""
    devices, ranks = num_cuda_devices(), ranks_on_these_devices()
    if os.environ.get(DEVICE_VARIABLE, "auto") == "auto" and 0 < devices < ranks:
        warn(f"this machine has {devices} CUDA devices for {ranks} ranks, so the run uses the CPU")


def device_name() -> str | None:
    """Return the CUDA device's product name, or None on the CPU."""
    return torch.cuda.get_device_name() if uses_cuda() else None


def compute_capability() -> tuple[int, int] | None:
    """Return the CUDA device's compute capability, such as (9, 0) for an H100, or None on the CPU."""
    return torch.cuda.get_device_capability() if uses_cuda() else None


def install(device: str | None = None) -> None:
    """Patch megatron-core so that it runs on `device` (`auto`, `cpu` or `cuda`), by default that of OASST_DEVICE.

    OASST_DEVICE is set to `device` if it is given. Further calls patch nothing again. Raises RuntimeError when
    megatron-core is not a version that this module patches, and ConfigError for a device that cannot be used.
    """
    global _mode
    if device is not None:
        os.environ[DEVICE_VARIABLE] = device
    found = importlib.metadata.version("megatron-core")
    adapted = (MEGATRON_CORE_VERSION, *OTHER_MEGATRON_CORE_VERSIONS)
    if found not in adapted:
        raise RuntimeError(
            f"megatron-core {found} is installed, but this program adapts {' and '.join(adapted)}: pip install "
            f"megatron-core=={MEGATRON_CORE_VERSION}"
        )
    hide_broken_transformer_engine()
    importlib.metadata.version("psutil")  # without it megatron-core's checkpoint writer hangs forever
    quiet_known_warnings()
    if _mode is None and not uses_cuda():
        warn_of_unused_devices()
        _point_torch_cuda_at_cpu()
        _use_cpu_rng()
        _exchange_nothing_with_itself()
        _mode = CudaAsCpu()
        _mode.__enter__()  # stays active for the life of the process
    _write_checkpoints_without_manager()


def hide_broken_transformer_engine() -> None:
    """Make an installed Transformer Engine that cannot be imported look as if it were not installed, and warn about it.

    A package built for another torch version raises errors that megatron-core does not handle.
    """
    if importlib.util.find_spec("transformer_engine") is None:
        return
    try:
        importlib.import_module("transformer_engine.pytorch")
    except Exception as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_engine"]:
            del sys.modules[name]
        sys.modules["transformer_engine"] = None  # type: ignore[assignment]
        warn(f"transformer_engine is installed but cannot be imported ({error}): pip uninstall it, or reinstall it")


def quiet_known_warnings() -> None:
    """Silence warnings of megatron-core and torch that users of this package cannot act on."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    for module in _NOTICES:
        logging.getLogger(f"megatron.core.{module}").addFilter(_is_no_notice)


def _is_no_notice(record: logging.LogRecord) -> bool:
    """Return whether a log record of megatron-core is not one of _NOTICES."""
    return _NOTICES.get(record.name.removeprefix("megatron.core."), "\0") not in record.getMessage()


def _point_torch_cuda_at_cpu() -> None:
    import megatron.core  # noqa: F401 - its import queries the real torch.cuda

    # Each name has its own function, because torch.compile distinguishes them by the function.
    cuda: Any = torch.cuda
    cuda.is_available = lambda: False  # megatron-core must not see an unused device
    cuda.current_device = lambda: CPU  # megatron-core uses it as device=... only
    cuda.current_stream = lambda device=None: None  # megatron-core 0.19 asks for it before it knows whether it needs it
    cuda.synchronize = lambda device=None: None
    cuda.empty_cache = lambda: None
    cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    cuda.set_rng_state = lambda state, device="cuda": torch.set_rng_state(state)
    cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(seed)  # torch's own one waits for CUDA


def _use_cpu_rng() -> None:
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)

    class CpuRngStatesTracker(random.CudaRNGStatesTracker):
        """megatron-core's tracker of random states, applied to the CPU generator without a warning."""

        _current_state_name: str

        @contextlib.contextmanager
        def fork(self, name: str = random._MODEL_PARALLEL_RNG_TRACKER_NAME) -> Iterator[None]:
            if name not in self.states_:
                raise RuntimeError(f"rng state {name} was not added")
            outer, outer_name = torch.get_rng_state(), self._current_state_name
            if outer_name != "default-rng":
                self.states_[outer_name] = outer
            torch.set_rng_state(self.states_[name])
            self._current_state_name = name
            try:
                yield
            finally:
                self.states_[name] = torch.get_rng_state()
                torch.set_rng_state(outer if outer_name == "default-rng" else self.states_[outer_name])
                self._current_state_name = outer_name

    random.CudaRNGStatesTracker = CpuRngStatesTracker


def _exchange_nothing_with_itself() -> None:
    """Leave out collectives of data-parallel groups of one rank, in which gloo copies all gradients and weights."""
    from megatron.core.distributed import param_and_grad_buffer as buffers

    for name in ("dist_all_gather_func", "dist_reduce_scatter_func"):
        setattr(buffers, name, functools.partial(_among_several, getattr(buffers, name)))


def _among_several(collective: Callable[..., Any], *tensors: torch.Tensor, group: Any, **options: Any) -> Any:
    return collective(*tensors, group=group, **options) if group.size() > 1 else None


def replace_torch_adam(own_adam: type[torch.optim.Optimizer]) -> None:
    """Make megatron-core use the class `own_adam` where it would use torch's AdamW.

    It would use torch's only when neither Transformer Engine nor Apex is installed. torch's AdamW keeps a step count
    per tensor, which megatron-core's distributed optimizer cannot load.
    """
    import megatron.core.optimizer as optimizer
    from megatron.core.optimizer import distrib_optimizer

    if optimizer.USING_PYTORCH_OPTIMIZER:
        optimizer.Adam = distrib_optimizer.Adam = own_adam
        optimizer.USING_PYTORCH_OPTIMIZER = False
        distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_APEX_OPTIMIZER = True


def replace_weight_gradient_kernel(add_product: Callable[..., None]) -> None:
    """Make megatron-core's linear layers call `add_product` where they would call Apex's wgrad_gemm_accum_fp32."""
    from megatron.core.tensor_parallel import layers

    kernels: Any = types.SimpleNamespace(wgrad_gemm_accum_fp32=add_product)
    layers.fused_weight_gradient_mlp_cuda = kernels


def _write_checkpoints_without_manager() -> None:
    """Make megatron-core's checkpoint writer return its results through a queue inside this process.

    By default it starts a multiprocessing manager for them, which takes 3 to 8 s in the first save.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    filesystem_async._results_queue = queue.Queue()
