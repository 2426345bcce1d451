"""Check that all ranks compute on the same kind of device before they connect, and describe their devices.

A node without a usable driver would choose gloo while the others choose NCCL, and all ranks would wait until the
timeout. So the ranks first compare their devices through the rendezvous store.
"""

from __future__ import annotations

import datetime
import json
import socket
from collections import Counter
from dataclasses import asdict, dataclass

import torch.distributed as dist

from megatron_train.parallel.device import device_name
from pretokenizer.config.yaml_config import ConfigError


@dataclass(frozen=True)
class RankDevice:
    """The device that a rank computes on. `name` is the product name of its GPU, None on the CPU."""

    rank: int
    host: str
    name: str | None

    @property
    def backend(self) -> str:
        """The communication backend that suits the device: nccl for a GPU, gloo for the CPU."""
        return "gloo" if self.name is None else "nccl"

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} uses {self.name or 'the CPU'}"


def compare_devices(store: dist.Store, own: RankDevice, world_size: int, timeout: datetime.timedelta) -> None:
    """Check that either all ranks use CUDA or none does. All ranks call this function before they connect.

    If they differ, ConfigError is raised on every rank and names one rank with CUDA and one without. TimeoutError names
    the ranks that have not published their device within `timeout`.
    """
    store.set(f"device/{own.rank}", json.dumps(asdict(own)))
    keys = [f"device/{rank}" for rank in range(world_size)]
    try:
        store.wait(keys, timeout)
    except dist.DistStoreError as error:
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
        raise TimeoutError(
            f"ranks {missing} did not connect within --distributed_timeout_minutes; check that they started"
        ) from error
    devices = [RankDevice(**json.loads(store.get(key))) for key in keys]
    others = [device for device in devices if device.backend != devices[0].backend]
    if others:
        raise ConfigError(
            f"{devices[0]}, but {others[0]}: all ranks need the same kind of device; check the driver and "
            "CUDA_VISIBLE_DEVICES of each machine, or give --device cpu"
        )


def own_device(rank: int) -> RankDevice:
    """Return the host and device of this process, as those of rank `rank`."""
    return RankDevice(rank, socket.gethostname(), device_name())


def describe_devices() -> str:
    """Return the devices of all ranks as a phrase such as `8 x NVIDIA H100 (nccl)`. All ranks call this function."""
    devices: list[RankDevice | None] = [None] * dist.get_world_size()
    dist.all_gather_object(devices, own_device(dist.get_rank()))
    kinds = Counter((device.name or "CPU", device.backend) for device in devices if device)
    return ", ".join(f"{count} x {name} ({backend})" for (name, backend), count in kinds.items())
