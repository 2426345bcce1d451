"""Report the versions and the device, and run one collective: `make gpu-report` starts with this part."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess

import torch
import torch.distributed as dist

from benchmarks.gpu_parts.record import Record
from megatron_train.config.settings import Parallel
from megatron_train.parallel.device import compute_capability, device_name, install, uses_cuda
from megatron_train.parallel.distributed import device, init_distributed


def run(record: Record, small: bool) -> None:
    install()
    record.row(item="device", value=device_name() or f"CPU, {platform.machine()}")
    record.row(item="driver", value=driver_line())
    record.row(item="Python", value=platform.python_version())
    record.row(item="torch", value=torch.__version__)
    record.row(item="CUDA of torch", value=torch.version.cuda)
    record.row(item="megatron-core", value=importlib.metadata.version("megatron-core"))
    for package in ("transformer_engine", "apex"):
        record.row(item=package, value="installed" if importlib.util.find_spec(package) else "not installed")
    if uses_cuda():
        free, total = torch.cuda.mem_get_info()
        record.row(item="compute capability", value=".".join(map(str, compute_capability() or ())))
        record.row(item="memory", value=f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
        record.row(item="NCCL", value=".".join(map(str, torch.cuda.nccl.version())))
    init_distributed(Parallel(), seed=1)
    tensor = torch.full((4,), 3.0, device=device())
    dist.all_reduce(tensor)
    record.fact("an all-reduce of one rank returns its input", tensor.tolist() == [3.0] * 4)


def driver_line() -> str | None:
    """Return the driver version that nvidia-smi reports, or None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0] or None
