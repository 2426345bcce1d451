"""Compare measured peaks of GPU memory with the estimates of `plan`, and measure what a save adds.

The measured figure is torch's peak of allocated bytes over two iterations on random tokens. The planned one leaves out
the fixed part (context, NCCL), which torch does not count. Fragmentation is in neither.
"""

from __future__ import annotations

import contextlib
import io
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.model_steps import MODELS, Bench, narrow, peak_gib, random_batch, release_memory, reset_peak
from benchmarks.gpu_parts.record import Record
from megatron_train.checkpoint.save_load import save_checkpoint
from megatron_train.config.flags import config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.parallel.device import install, uses_cuda
from megatron_train.planning.memory import FIXED_BYTES, stage_memory

FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("llama2_70b", 2, {"micro_batch_size": 1, "packing": True}),
    ("llama2_70b", 2, {"micro_batch_size": 2}),
    ("falcon_7b", 8, {"micro_batch_size": 4, "seq_length": 2048}),
    ("pythia_12b", 6, {"micro_batch_size": 4, "seq_length": 2048}),
    ("llama2_70b", 2, {"micro_batch_size": 4, **FULL}),
    ("llama2_70b", 2, {"micro_batch_size": 2, "hidden_dropout": 0.25, "lima_dropout": True}),
    ("redpajama_incite_3b", 16, {"micro_batch_size": 2, "seq_length": 2048}),
    ("falcon_7b", 8, {"micro_batch_size": 4, "seq_length": 2048, **FULL}),
    ("stablelm_alpha_7b", 4, {"micro_batch_size": 2}),
]
"""(architecture, its layers here, settings)."""
LIMIT = 0.1
"""Largest relative difference of the measured from the planned peak that passes."""


@dataclass(frozen=True)
class Peak:
    """The planned and the measured peak of GPU memory of one case, in GiB."""

    model: str
    layers: int
    settings: str
    planned: float
    measured: float | None
    """None = not measured, because there is no GPU or it is too small."""


def run(record: Record, small: bool) -> None:
    install()
    for peak in peaks(small):
        values = {"model": peak.model, "layers": peak.layers, "settings": peak.settings, "planned_gib": peak.planned}
        if peak.measured is None:
            record.row(**values, measured_gib=None)
        else:
            off = abs(peak.planned / peak.measured - 1)
            record.check("peak of two iterations", off, LIMIT, **values, measured_gib=peak.measured)
    check_save(record, small)


def peaks(small: bool) -> Iterator[Peak]:
    """Measure each of CASES, and yield its planned and measured peak. `small` takes narrow models and 64 tokens."""
    for name, layers, settings in CASES:
        settings = {"seq_length": 4096, "bf16": True, "train_iters": 2} | settings
        shown = " ".join(f"{key}={value}" for key, value in settings.items() if key not in ("bf16", "train_iters"))
        model = replace(ModelConfig.load(MODELS / f"{name}.yaml"), num_layers=layers)
        if small:
            model, settings = narrow(model), settings | {"seq_length": 64}
        planned = planned_gib(model, settings)
        measured = measured_gib(model, settings) if fits(planned) else None
        yield Peak(name, model.num_layers, shown, planned, measured)


def planned_gib(model: ModelConfig, settings: dict[str, Any]) -> float:
    """Return the peak in GiB that `plan` estimates for one GPU, without the fixed part."""
    config = config_from_settings({"train_iters": 1} | settings, "GPU report")
    return (stage_memory(model, config, ParallelLayout(1), 0).total - FIXED_BYTES) / 2**30


def fits(planned: float) -> bool:
    """Return whether `planned` GiB fit into nine tenths of the free GPU memory. The CPU counts as large enough."""
    release_memory()
    return not uses_cuda() or planned < 0.9 * torch.cuda.mem_get_info()[0] / 2**30


def measured_gib(model: ModelConfig, settings: dict[str, Any]) -> float | None:
    """Return the measured peak of GPU memory of two training iterations in GiB, or None on the CPU."""
    release_memory()
    before = reset_peak()
    bench = Bench.build(model, settings)
    for _ in range(2):
        bench.step([random_batch(model, bench.config)])
    return peak_gib(before)


def check_save(record: Record, small: bool) -> None:
    """Save a checkpoint, and record the GiB that this adds to the memory of the GPU and of the process.

    The check of the GPU passes up to the size of one tensor: it may hold a copy of one tensor at a time, in fp32 and in
    16 bits.
    """
    model = replace(ModelConfig.load(MODELS / "qwen2.5_0.5b.yaml"), num_layers=8)
    model = narrow(model) if small else model
    bench = Bench.build(model, {"bf16": True, "seq_length": 64})
    bench.step([random_batch(model, bench.config)])
    largest = max(parameter.numel() for _, parameter in bench.named_parameters())
    before, resident = reset_peak(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        save_checkpoint(bench.contents(Path(folder)))
    added, limit = peak_gib(before), 8 * largest / 2**30
    host = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 2**20
    planned = stage_memory(model, bench.config, ParallelLayout(1), 0).saving / 2**30
    if added is not None:
        record.check("GiB of GPU memory that a save adds", added, limit)
    record.row(model="qwen2.5_0.5b", layers=model.num_layers, host_gib_of_a_save=host, planned_host_gib=planned)
