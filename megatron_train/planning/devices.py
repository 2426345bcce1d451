"""The GPUs that `plan` knows: usable memory, peak FLOP/s and the links between GPUs, from the vendors' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_train.report.flops import PEAK_TFLOPS


@dataclass(frozen=True)
class Device:
    """The memory and speed of one kind of GPU. A node is assumed to have 8 GPUs of that kind."""

    name: str
    memory: float
    """Usable memory in GiB."""
    peak: float
    """Peak FLOP/s of dense bf16 matrix products."""
    bandwidth: float
    """Bandwidth of the GPU's memory in bytes per second."""
    link: float
    """Bandwidth to the other GPUs of the same node, in bytes per second and direction."""
    network: float = 50e9
    """Bandwidth of one GPU to other nodes, in bytes per second. The default is 400 Gbit/s."""


GPUS_PER_NODE = 8
DEVICES = {
    "a100-40gb": Device("A100 40 GB", 39.4, PEAK_TFLOPS["A100"] * 1e12, 1.56e12, 300e9, 25e9),
    "a100-80gb": Device("A100 80 GB", 79.2, PEAK_TFLOPS["A100"] * 1e12, 2.04e12, 300e9, 25e9),
    "h100-80gb": Device("H100 80 GB", 79.2, PEAK_TFLOPS["H100"] * 1e12, 3.35e12, 450e9),
    "h200-141gb": Device("H200 141 GB", 139.7, PEAK_TFLOPS["H200"] * 1e12, 4.8e12, 450e9),
}
SIZES = {"40 GB": 39.4, "80 GB": 79.2, "141 GB": 139.7}
"""Memory sizes that the report checks a plan against: label -> usable memory in GiB."""
