"""No forward or backward pass waits for the GPU, and a layer has a bounded number of kernels, without any GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from tests.megatron_train.cuda_probe import MetaAsCuda
from tests.paths import ROOT

TP8 = {"tensor_model_parallel_size": 8, "sequence_parallel": True}
CASES: list[dict[str, object]] = [
    {"packing": True},
    {},
    {"packing": True, **TP8},
    TP8,
    {"packing": True, "neftune_noise_alpha": 5.0},
    {"packing": True, "recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
]
KERNELS_PER_LAYER = [125, 150, 145, 170, 125, 190]
"""Most kernels of a forward and backward pass. The meta device counts an RMSNorm as 6 and padded attention as 10."""


def test_no_pass_waits_for_the_device() -> None:
    words = [sys.executable, "-W", "ignore", "-m", "tests.megatron_train.cuda_probe", *map(json.dumps, CASES)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for (shallow, deep), bound in zip(found, KERNELS_PER_LAYER, strict=True):
        assert (shallow["pass"], deep["pass"]) == ({}, {})
        assert (deep["kernels"] - shallow["kernels"]) / 2 <= bound, deep["by_kernel"]
        assert sum(deep["sums"].values()) <= 3
    packed, padded = found[0][1]["by_kernel"], found[1][1]["by_kernel"]
    assert packed["_varlen_attn"] == 3
    assert "_varlen_attn" not in padded


def test_the_probe_sees_what_waits_for_the_device() -> None:
    pose = MetaAsCuda()
    with pose:
        tensor = torch.zeros(3, device="cuda")
        assert tensor.is_cuda
        assert tensor.tolist() == [0.5, 0.5, 0.5]
        bool(tensor[0] == 1)
        torch.tensor(1, device="cuda")
    assert [name.split()[0] for name in pose.take()] == ["tolist", "__bool__", "torch.tensor"]
    assert pose.take() == {}
