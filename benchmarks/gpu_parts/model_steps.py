"""Models, micro-batches and timed steps that the parts of the GPU report share.

bench = Bench.build(ModelConfig.load("llama3_8b.yaml"), {"bf16": True, "packing": True, "seq_length": 4096})
bench.step([random_batch(bench.model, bench.config, documents_per_row=8)])
"""

from __future__ import annotations

import gc
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_train.checkpoint.save_load import Contents
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.flags import config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.data.batch import LossRule, packed_batch, padded_batch
from megatron_train.data.loader import DeviceBatch, HostBatch, to_device
from megatron_train.model.build import build_model
from megatron_train.optim.optimizer import build_optimizer, wrap_model
from megatron_train.parallel.device import install, uses_cuda
from megatron_train.parallel.distributed import init_distributed, seed_rank
from megatron_train.report.phases import PhaseTimer
from megatron_train.train_step import StepResult, Update, is_unwanted, train_step

MODELS = Path(__file__).resolve().parents[2] / "configs" / "model"


@dataclass
class Bench:
    """A model with its optimizer on this process's device, for steps on given micro-batches."""

    model: ModelConfig
    config: TrainConfig
    layout: ParallelLayout
    chunks: list[Any]
    optimizer: Any

    @classmethod
    def build(cls, model: ModelConfig, settings: dict[str, Any]) -> Bench:
        """Return a bench with random weights. `settings` are training settings, as in a YAML file."""
        install()
        config = config_from_settings({"train_iters": 1, "clip_grad": 1.0} | settings, "GPU report")
        if dist.is_initialized() and parallel_state.model_parallel_is_initialized():
            layout = ParallelLayout(1)
            seed_rank(config.batch.seed)
        else:
            layout = init_distributed(config.parallel, config.batch.seed)
        release_memory()
        chunks = wrap_model(build_model(model, config), config)
        return cls(model, config, layout, chunks, build_optimizer(chunks, config))

    def step(self, batches: list[DeviceBatch]) -> StepResult:
        """Train one iteration on the micro-batches `batches`, as a run does, but without reading data."""

        def is_refused(loss: float, norm: float) -> bool:
            return is_unwanted(TrainState(), self.config.optimizer, loss, norm)

        update = Update(self.config.lr_schedule.lr, 0.01, self.config.optimizer.clip_grad, is_refused)
        return train_step(self.chunks, self.optimizer, batches, update, PhaseTimer())

    def seconds_per_step(self, batches: list[DeviceBatch], warm_up: int, steps: int) -> float:
        """Return the mean seconds of `steps` training iterations, after `warm_up` iterations that do not count."""
        for _ in range(warm_up):
            self.step(batches)
        synchronize()
        started = time.perf_counter()
        for _ in range(steps):
            self.step(batches)
        synchronize()
        return (time.perf_counter() - started) / steps

    def contents(self, root: Path) -> Contents:
        """Return the contents to save as a checkpoint of this bench below the folder `root`."""
        config = replace(self.config, checkpoint=replace(self.config.checkpoint, save=str(root)))
        return Contents(config, self.model, TrainState(), self.chunks, self.optimizer, self.layout, {})

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Return the parameters with their names in the model, which do not depend on the wrappers around it."""
        named = self.chunks[0].named_parameters()
        return [(name.replace("module.", ""), parameter) for name, parameter in named]

    def fill_weights(self) -> None:
        """Set every weight to numbers that depend only on its name, so that all devices start from the same model."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                numbers = named_random(name).standard_normal(parameter.numel())
                scale, mean = (0.1, 0.0) if parameter.dim() == 1 else (parameter.shape[-1] ** -0.5, 0.0)
                if parameter.dim() == 1 and name.endswith("weight"):
                    mean = 1.0  # a norm
                values = torch.from_numpy((mean + scale * numbers).reshape(parameter.shape))
                parameter.copy_(values.to(parameter.device, parameter.dtype))
        self.optimizer.reload_model_params()


def named_random(name: str) -> np.random.RandomState:
    """Return a random generator whose seed is the CRC-32 of `name`."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def random_batch(model: ModelConfig, config: TrainConfig, documents_per_row: int = 2) -> DeviceBatch:
    """Return a micro-batch of full rows of random tokens that are all targets of the loss.

    A packed row holds `documents_per_row` documents of equal length, a padded row one document.
    """
    length, rows = config.data.seq_length, config.batch.micro_batch_size
    size = length // documents_per_row if config.data.packing else length
    return batch_of(model, config, [[size] * (length // size)] * rows)


def batch_of(model: ModelConfig, config: TrainConfig, rows: list[list[int]]) -> DeviceBatch:
    """Return a micro-batch of random tokens that are all targets of the loss.

    `rows` has one list for each row: the lengths of its documents in positions. A padded row has one document.
    """
    rng, rule = np.random.RandomState(0), LossRule((2,), "label", False, 0.0)

    def document(size: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.randint(0, model.vocab_size, size + 1), np.full(size + 1, 2)

    documents = [[document(size) for size in row] for row in rows]
    if config.data.packing:
        batch = packed_batch(documents, config.data.seq_length, 0, rule)
    else:
        batch = padded_batch([row[0] for row in documents], config.data.seq_length, 0, rule)
    moved = to_device(HostBatch.of(batch))
    moved.loss_factor = 1.0 / moved.loss_weight
    return moved


def release_memory() -> None:
    """Free the memory of models that nothing refers to any longer."""
    gc.collect()
    if uses_cuda():
        torch.cuda.empty_cache()


def synchronize() -> None:
    """Wait until the GPU has finished its work; without one there is nothing to wait for."""
    if uses_cuda():
        torch.cuda.synchronize()


def reset_peak() -> int:
    """Start a new measurement of peak GPU memory, and return the bytes that are allocated now; 0 on the CPU."""
    if not uses_cuda():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_gib(before: int) -> float | None:
    """Return the peak of GPU memory since reset_peak in GiB, without the `before` bytes; None on the CPU."""
    return (torch.cuda.max_memory_allocated() - before) / 2**30 if uses_cuda() else None


def narrow(model: ModelConfig) -> ModelConfig:
    """Return the architecture with two layers of four narrow heads and 1,000 token ids, to try a program on a CPU."""
    groups = {1: 1, model.num_attention_heads: 4}.get(model.query_groups, 2)
    small = replace(model, num_layers=2, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, kv_channels=16)
    return replace(small, num_query_groups=groups, vocab_size=1000, padded_vocab_size=None)
