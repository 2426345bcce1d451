"""Measure tokens per second and MFU of training steps, and list the kernels that take the time.

The models have the width and vocabulary of published ones, and fewer layers. The difference between 8 and 4 layers
gives the time of one layer. A step is forward, backward and AdamW on tokens that are on the device already.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.memory import FULL, fits, planned_gib
from benchmarks.gpu_parts.model_steps import (
    MODELS,
    Bench,
    narrow,
    peak_gib,
    random_batch,
    release_memory,
    reset_peak,
    synchronize,
)
from benchmarks.gpu_parts.record import Record
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import Model
from megatron_train.parallel.device import device_name, install, uses_cuda
from megatron_train.report.flops import model_flops, peak_flops

DOCUMENTS_PER_ROW = 8
BASE = {"bf16": True, "packing": True, "seq_length": 4096, "micro_batch_size": 1}
KERNELS_SHOWN = 20


@dataclass(frozen=True)
class Case:
    """One line of the speed table: an architecture with `layers` layers, and settings that are added to BASE."""

    model: str = "llama3_8b"
    layers: int = 8
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case(),
    Case(settings={"micro_batch_size": 4}),
    Case(layers=4),
    Case(settings={"packing": False, "micro_batch_size": 4}),
    Case(settings={"micro_batch_size": 4, "compile": True}),
    Case(settings={"micro_batch_size": 4, **FULL}),
    Case(settings={"micro_batch_size": 2}),
    Case(settings={"micro_batch_size": 4, "loss_chunk_size": 256}),
    Case(settings={"micro_batch_size": 4, "loss_chunk_size": 16384}),
    Case(settings={"seq_length": 8192, "micro_batch_size": 2}),
    Case("falcon_7b", 6, {"seq_length": 2048, "micro_batch_size": 4}),
    Case("pythia_12b", 6, {"seq_length": 2048, "micro_batch_size": 4}),
)
"""The cases to measure, the most valuable first, because the part may be cut."""


def run(record: Record, small: bool) -> None:
    install()
    known = {setting.name for setting in fields(Model)}
    seconds: dict[int, float] = {}
    for case in CASES:
        if "compile" in case.settings and "compile" not in known:
            continue
        took = measure(record, case, small)
        if case.settings == {} and took is not None:
            seconds[case.layers] = took
    if not small and {4, 8} <= set(seconds):
        layer = (seconds[8] - seconds[4]) / 4
        record.row(model="llama3_8b", per_layer_ms=1e3 * layer, all_but_layers_ms=1e3 * (seconds[8] - 8 * layer))


def measure(record: Record, case: Case, small: bool) -> float | None:
    """Measure one case, record its line of the speed table, and return the seconds of a training step.

    Return None, and record why, if the model does not fit into the GPU's memory.
    """
    model = replace(ModelConfig.load(MODELS / f"{case.model}.yaml"), num_layers=case.layers)
    settings = BASE | case.settings
    if small:
        model, settings = narrow(model), settings | {"seq_length": 64}
    shown = {"model": case.model, "layers": model.num_layers, "settings": words(case.settings)}
    planned = planned_gib(model, settings)
    if not fits(planned):
        record.row(**shown, note=f"{planned:.0f} GiB do not fit")
        return None
    before = reset_peak()
    try:
        bench = Bench.build(model, settings)
        batch = random_batch(model, bench.config, DOCUMENTS_PER_ROW)
        seconds = bench.seconds_per_step([batch], *((1, 1) if small else (3, 8)))
    except torch.cuda.OutOfMemoryError:
        record.row(**shown, note=f"out of memory; planned {planned:.0f} GiB")
        return None
    flops = model_flops(model, batch.num_tokens, batch.squared_lengths)
    peak = peak_flops(None, device_name())
    record.row(
        **shown,
        tokens_per_second=batch.num_tokens / seconds,
        mfu=flops / seconds / peak if peak else None,
        tflops=flops / seconds / 1e12,
        step_ms=seconds * 1e3,
        planned_gib=planned,
        peak_gib=peak_gib(before),
    )
    return seconds


def words(settings: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def kernel_times(record: Record, small: bool) -> None:
    """Record the KERNELS_SHOWN kernels that take most time in two training steps, and the GPU's share of idle time."""
    install()
    release_memory()
    model = replace(ModelConfig.load(MODELS / "llama3_8b.yaml"), num_layers=2 if small else 8)
    settings = BASE | ({"seq_length": 64} if small else {})
    bench = Bench.build(narrow(model) if small else model, settings)
    batches = [random_batch(bench.model, bench.config, DOCUMENTS_PER_ROW)]
    bench.seconds_per_step(batches, 1 if small else 3, 1)
    activity = ProfilerActivity.CUDA if uses_cuda() else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        started = time.perf_counter()
        for _ in range(2):
            bench.step(batches)
        synchronize()
        wall = time.perf_counter() - started
    events = {event.key: (event_seconds(event), event.count) for event in profiler.key_averages()}
    busy = sum(seconds for seconds, _ in events.values())
    record.row(kernel="(idle)", ms=1e3 * (wall - busy), share=1 - busy / wall)
    for name, (seconds, count) in sorted(events.items(), key=lambda item: -item[1][0])[:KERNELS_SHOWN]:
        record.row(kernel=name[:100], calls=count, ms=1e3 * seconds, share=seconds / wall)


def event_seconds(event: Any) -> float:
    """Return the seconds of a profiler event: of a kernel on the GPU, or without a GPU of an operator itself."""
    return float(event.self_device_time_total if uses_cuda() else event.self_cpu_time_total) / 1e6
