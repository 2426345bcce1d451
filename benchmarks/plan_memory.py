"""Compare measured peaks of GPU memory with the estimates of `plan`, one row per configuration.

    python benchmarks/plan_memory.py                 needs a CUDA device with about 60 GiB free; a minute
    python benchmarks/plan_memory.py --small         small shapes, to try the program; without a GPU nothing is measured

The measured figure is torch's peak of allocated bytes over two iterations on random tokens; the planned one leaves out
the fixed part (context, NCCL) that torch does not count. Fragmentation is in neither.
"""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron_train.config.flags import config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.data.batch import LossRule, packed_batch, padded_batch
from megatron_train.data.loader import DeviceBatch, to_device
from megatron_train.planning.memory import FIXED_BYTES, stage_memory

MODELS = Path(__file__).resolve().parent.parent / "configs" / "model"
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("llama2_70b", 2, {"micro_batch_size": 1, "packing": True}),
    ("llama2_70b", 2, {"micro_batch_size": 2}),
    ("llama2_70b", 2, {"micro_batch_size": 2, "hidden_dropout": 0.25, "lima_dropout": True}),
    ("llama2_70b", 2, {"micro_batch_size": 4, **FULL}),
    ("pythia_12b", 6, {"micro_batch_size": 4, "seq_length": 2048}),
    ("redpajama_incite_3b", 16, {"micro_batch_size": 2, "seq_length": 2048}),
    ("falcon_7b", 8, {"micro_batch_size": 4, "seq_length": 2048}),
    ("falcon_7b", 8, {"micro_batch_size": 4, "seq_length": 2048, **FULL}),
    ("stablelm_alpha_7b", 4, {"micro_batch_size": 2}),
]
"""(architecture, its layers here, settings)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="two narrow layers, 1,000 token ids, 256 tokens: tries the program"
    )
    small = parser.parse_args().small
    if not (small or torch.cuda.is_available()):
        print("error: needs a CUDA device; --small tries the program without one", file=sys.stderr)
        return 2
    from megatron_train.parallel.device import install, quiet_known_warnings

    quiet_known_warnings()
    install()
    print(f"{'model':<20} {'layers':>6}  {'settings':<60} {'planned':>8} {'measured':>8}  {'off':>6}")
    for name, layers, settings in CASES:
        model = replace(ModelConfig.load(MODELS / f"{name}.yaml"), num_layers=layers)
        config = config_from_settings({"seq_length": 4096, "bf16": True, "train_iters": 2} | settings, "benchmark")
        if small:
            model = replace(model, hidden_size=model.num_attention_heads * 16, kv_channels=16, ffn_hidden_size=512)
            model = replace(model, num_layers=2, vocab_size=1000, padded_vocab_size=None)
            config = replace(config, data=replace(config.data, seq_length=256))
        plan = stage_memory(model, config, ParallelLayout(1), 0)
        planned, measured = (plan.total - FIXED_BYTES) / 2**30, peak_gib(model, config)
        shown = " ".join(f"{key}={value}" for key, value in settings.items())
        off = f"{planned / measured - 1:+.1%}" if measured else "-"
        print(
            f"{name:<20} {layers:>6}  {shown:<60.60} {planned:8.2f} {measured or float('nan'):8.2f}  {off:>6}",
            flush=True,
        )
    return 0


def peak_gib(model: ModelConfig, config: TrainConfig) -> float | None:
    """Return the peak memory of two iterations in GiB, or None without CUDA."""
    from megatron_train.model.build import build_model
    from megatron_train.optim.optimizer import build_optimizer, wrap_model
    from megatron_train.optim.update import apply_update
    from megatron_train.parallel.distributed import init_distributed
    from megatron_train.train_step import forward_backward

    init_distributed(config.parallel, seed=0)
    gc.collect()
    before = 0
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    chunks = wrap_model(build_model(model, config), config)
    optimizer: Any = build_optimizer(chunks, config)
    for _ in range(2):
        forward_backward(chunks, optimizer, [random_batch(model, config)])
        apply_update(optimizer, config.optimizer.clip_grad, lambda norm: False)
    return (torch.cuda.max_memory_allocated() - before) / 2**30 if torch.cuda.is_available() else None


def random_batch(model: ModelConfig, config: TrainConfig) -> DeviceBatch:
    """Return full rows of random tokens: two documents each if packed, else one."""
    rng, rule, length = np.random.RandomState(0), LossRule((2,), "label", False, 0.0), config.data.seq_length

    def document(size: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.randint(0, 1000, size + 1), np.full(size + 1, 2)

    if config.data.packing:
        batch = packed_batch([[document(length // 2), document(length // 2)]], length, 0, rule)
    else:
        batch = padded_batch([document(length) for _ in range(config.batch.micro_batch_size)], length, 0, rule)
    moved = to_device(batch)
    moved.loss_factor = 1.0 / moved.loss_weight
    return moved


if __name__ == "__main__":
    sys.exit(main())
