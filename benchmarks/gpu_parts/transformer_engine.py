"""Compare the layers of Transformer Engine with the local ones, and measure them, also in FP8.

No machine that tested this release has Transformer Engine and a GPU, so this part has not run either.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.model_steps import MODELS, Bench, random_batch, release_memory
from benchmarks.gpu_parts.record import PartSkippedError, Record
from benchmarks.gpu_parts.speed import BASE, Case, measure
from megatron_train.checkpoint.folder import folder_name
from megatron_train.checkpoint.save_load import load_weights, save_checkpoint
from megatron_train.config.model_config import ModelConfig
from megatron_train.parallel.device import install, uses_cuda

ENGINE = {"transformer_impl": "transformer_engine"}
FP8 = ENGINE | {"fp8_format": "hybrid"}


def run(record: Record, small: bool) -> None:
    """Record the parity, speed and FP8 steps of Transformer Engine's layers.

    Raises PartSkippedError without Transformer Engine or without a GPU.
    """
    install()
    if importlib.util.find_spec("transformer_engine") is None:
        raise PartSkippedError("Transformer Engine is not installed, or cannot be imported")
    if not uses_cuda():
        raise PartSkippedError("Transformer Engine needs a CUDA device")
    check_parity(record)
    for settings in (ENGINE, ENGINE | {"micro_batch_size": 4}, FP8 | {"micro_batch_size": 4}):
        measure(record, Case(settings=settings), small)
    check_fp8(record)


def check_parity(record: Record) -> None:
    """Train one step from the same weights with local layers and with Transformer Engine's.

    Record the relative differences of the loss and the gradient norm.
    """
    model = replace(ModelConfig.load(MODELS / "llama3_8b.yaml"), num_layers=2)
    settings = BASE | {"seq_length": 1024}
    with tempfile.TemporaryDirectory() as folder:
        local = Bench.build(model, settings)
        with contextlib.redirect_stdout(io.StringIO()):
            save_checkpoint(local.contents(Path(folder)))
        expected = local.step([random_batch(model, local.config)])
        del local
        engine = Bench.build(model, settings | ENGINE)
        load_weights(Path(folder) / folder_name(0), engine.chunks)
        engine.optimizer.reload_model_params()
        found = engine.step([random_batch(model, engine.config)])
    record.check("loss beside the local layers", abs(found.sums.loss / expected.sums.loss - 1), 2e-2)
    record.check("gradient norm beside the local layers", abs(found.grad_norm / expected.grad_norm - 1), 5e-2)


def check_fp8(record: Record) -> None:
    """Record whether five FP8 steps on one micro-batch are finite and lower its loss."""
    release_memory()
    model = replace(ModelConfig.load(MODELS / "llama3_8b.yaml"), num_layers=2)
    settings: dict[str, Any] = BASE | FP8 | {"lr": 1e-4}
    bench = Bench.build(model, settings)
    batch = random_batch(model, bench.config)
    losses = [bench.step([batch]).sums.loss for _ in range(5)]
    record.fact(
        "five FP8 steps lower the loss", all(map(math.isfinite, losses)) and losses[-1] < losses[0], loss=losses
    )
