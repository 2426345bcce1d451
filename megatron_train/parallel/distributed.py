"""Process groups, devices, seeds and who prints. One process without torchrun works too: world size 1.

NCCL on CUDA, gloo on the CPU; everything else is the same code.
"""

from __future__ import annotations

import datetime
import gc
import os
import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import Parallel
from megatron_train.parallel.device import uses_cuda
from megatron_train.parallel.launch_store import fresh_store


def world_size() -> int:
    """Processes of this launch, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def init_distributed(parallel: Parallel, seed: int) -> ParallelLayout:
    """Starts the process groups of this rank and seeds it. Call parallel.device.install() first."""
    from megatron.core import parallel_state

    layout = ParallelLayout.planned(parallel, world_size())
    if not dist.is_initialized():
        timeout = datetime.timedelta(minutes=parallel.distributed_timeout_minutes)
        if uses_cuda():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "nccl" if uses_cuda() else "gloo"
        if "RANK" in os.environ:
            rank, world = int(os.environ["RANK"]), world_size()
            dist.init_process_group(backend, store=fresh_store(timeout), rank=rank, world_size=world, timeout=timeout)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    leave_groups()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        distributed_timeout_minutes=parallel.distributed_timeout_minutes,  # else half an hour, in making groups too
        create_gloo_process_groups=False,  # second copies of the data-parallel groups, which nothing here uses
    )
    seed_rank(seed)
    return layout


def seed_rank(seed: int) -> None:
    """Different streams per pipeline stage and data-parallel rank; the tracker adds the tensor-parallel rank itself."""
    from megatron.core import parallel_state, tensor_parallel

    stage, replicas = parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_data_parallel_world_size()
    own = seed + 100 * (stage * replicas + parallel_state.get_data_parallel_rank())
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    tensor_parallel.model_parallel_cuda_manual_seed(own, force_reset_rng=True)


def leave_groups() -> None:
    """Ends every group but the world's: megatron-core only forgets them, and a gloo group's threads keep polling."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    gc.collect()  # models of the layout before hold its groups
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)


def shutdown() -> None:
    """Ends the process groups; safe when there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if uses_cuda() else torch.device("cpu")


def sum_over_ranks(values: list[float], group: Any = None) -> list[float]:
    """Elementwise fp64 sum over all ranks (or those of `group`)."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device())
    if dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, group=group)
    return [float(x) for x in tensor.tolist()]
