"""Start and end the process groups of a rank, and seed its random generators. Without a launcher there is one rank."""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import Parallel
from megatron_train.parallel.device import device_index, uses_cuda
from megatron_train.parallel.launch_store import fresh_store
from megatron_train.parallel.rank_devices import compare_devices, own_device
from pretokenizer.config.yaml_config import ConfigError


def world_size() -> int:
    """Return the number of ranks of this launch: WORLD_SIZE of torchrun, or 1 without a launcher.

    Raises ConfigError when only some of the launcher's environment variables are set, or RANK is not below WORLD_SIZE.
    """
    launched = ("RANK", "WORLD_SIZE")
    if not any(name in os.environ for name in launched):
        return 1
    needed = launched if dist.is_initialized() else (*launched, "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        present = " ".join(f"{name}={os.environ[name]}" for name in launched if name in os.environ)
        raise ConfigError(
            f"the environment has {present} but not {', '.join(missing)}: start the ranks with torchrun, or unset them "
            "to run one process"
        )
    rank, world = (int(os.environ[name]) if os.environ[name].isdigit() else -1 for name in launched)
    if not 0 <= rank < world:
        raise ConfigError(f"RANK={os.environ['RANK']} is not a rank below WORLD_SIZE={os.environ['WORLD_SIZE']}")
    return world


def init_distributed(parallel: Parallel, seed: int) -> ParallelLayout:
    """Start the process groups of this rank, seed its random generators and return the parallel layout.

    Call parallel.device.install() first. Process groups of an earlier layout are destroyed. Raises ConfigError when
    some ranks use CUDA and others the CPU.
    """
    from megatron.core import parallel_state

    world = world_size()
    layout = ParallelLayout.planned(parallel, world)
    if not dist.is_initialized():
        _join_world(datetime.timedelta(minutes=parallel.distributed_timeout_minutes))
    leave_groups()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        distributed_timeout_minutes=parallel.distributed_timeout_minutes,  # the default is half an hour
        create_gloo_process_groups=False,  # copies of the data-parallel groups that nothing uses
    )
    seed_rank(seed)
    return layout


def _join_world(timeout: datetime.timedelta) -> None:
    """Create the process group of all ranks: NCCL on CUDA, gloo on the CPU.

    Raises ConfigError when some ranks use CUDA and others the CPU.
    """
    in_launch = "RANK" in os.environ
    rank, world = (int(os.environ["RANK"]), world_size()) if in_launch else (0, 1)
    store = fresh_store(timeout) if in_launch else dist.HashStore()
    own = own_device(rank)
    compare_devices(store, own, world, timeout)
    target = None
    if uses_cuda():
        target = torch.device("cuda", device_index())
        torch.cuda.set_device(target)
    # With device_id, NCCL connects here instead of in the first collective, where an error is hard to place.
    dist.init_process_group(own.backend, store=store, rank=rank, world_size=world, timeout=timeout, device_id=target)


def seed_rank(seed: int) -> None:
    """Seed the random generators of this rank from `seed`, its pipeline stage and its data-parallel rank.

    megatron-core's tracker of random states also adds the tensor-parallel rank.
    """
    from megatron.core import parallel_state, tensor_parallel

    stage, replicas = parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_data_parallel_world_size()
    own = seed + 100 * (stage * replicas + parallel_state.get_data_parallel_rank())
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    tensor_parallel.model_parallel_cuda_manual_seed(own, force_reset_rng=True)


def leave_groups() -> None:
    """Destroy every process group except the one of all ranks."""
    _drop_groups()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)


def shutdown() -> None:
    """Destroy all process groups, if there are any.

    With NCCL all ranks must take part, so do not call this after a failure.
    """
    if dist.is_initialized():
        _drop_groups()
        dist.destroy_process_group()


def _drop_groups() -> None:
    """Drop megatron-core's references to its process groups, and those of models that are garbage.

    A gloo group keeps threads that poll until its last reference is gone.
    """
    from megatron.core import parallel_state
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

    parallel_state.destroy_model_parallel()
    RotaryEmbedding.forward.cache_clear()  # its keys are modules, which hold a group
    gc.collect()  # models are in reference cycles


def freeze_imports() -> None:
    """Exclude all objects that exist now, most of them imported, from garbage collections, which then take no second.

    Only the first call in a process has an effect: garbage of an earlier run would otherwise be kept, and its process
    groups with it.
    """
    if not gc.get_freeze_count():
        gc.freeze()


def device() -> torch.device:
    """Return the device that this rank computes on."""
    return torch.device("cuda", torch.cuda.current_device()) if uses_cuda() else torch.device("cpu")


def sum_over_ranks(values: list[float]) -> list[float]:
    """Return the elementwise sum of `values`, in fp64, over all ranks. All ranks call this function."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device())
    if dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return [float(x) for x in tensor.tolist()]


@contextlib.contextmanager
def patient_group() -> Iterator[Any]:
    """Yield a gloo group of all ranks in which a collective may wait for up to two hours.

    Use it when the other ranks wait while one rank works alone, for longer than --distributed_timeout_minutes allows.
    All ranks must enter the block.
    """
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(hours=2))
    try:
        yield group
    finally:
        dist.destroy_process_group(group)
