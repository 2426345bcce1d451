"""Measure our packed training beside transformers' packed training, with benchmarks/train.py, on random documents.

In bf16, transformers updates the bf16 weights themselves. Ours keeps fp32 weights and gradients, which is more work.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import train
from benchmarks.gpu_parts.model_steps import MODELS, narrow
from benchmarks.gpu_parts.record import Record
from benchmarks.gpu_parts.trainer_runs import write_shard
from megatron_train.config.model_config import ModelConfig

PACKED = ("ours packed", "transformers packed")


def run(record: Record, small: bool) -> None:
    model = replace(ModelConfig.load(MODELS / "llama3_8b.yaml"), num_layers=8)
    model = narrow(model) if small else model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save(folder / "model.yaml")
        prefix = write_shard(folder / "random", 200, 60 if small else 1000, model.vocab_size)
        words = ["--prefix", str(prefix), "--model", str(folder / "model.yaml")]
        words += ["--seq_length", "64", "--steps", "1"] if small else ["--seq_length", "4096", "--steps", "4", "--bf16"]
        options = train.parse_arguments([*words, "--packed_rows", "2", "--warm_up", "1" if small else "3"])
        speeds = {}
        for mode in PACKED:
            options.measure = mode
            if small:  # saves starting a process for each mode
                measured = train.measure(options)
                speeds[mode] = measured["tokens"] / measured["seconds"]
            else:
                speeds[mode] = train.run_measurement(mode, options)
            record.row(mode=mode, tokens_per_second=speeds[mode])
    ours, theirs = (speeds[mode] for mode in PACKED)
    record.row(mode="ours / transformers", ratio=ours / theirs)
