"""Measure the memory that saving and loading a checkpoint need, beside what a rank holds for training.

    python benchmarks/checkpoint_memory.py                      133 million parameters in bf16 on 4 data-parallel ranks
    python benchmarks/checkpoint_memory.py --layers 16 --hidden_size 2048       about a billion parameters, 36 GB in all

All ranks are processes of this machine, on the CPU. The memory is the peak resident size (VmHWM in /proc) less that of
a process which has only imported the trainer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.train import ROOT, sample_shards
from megatron_train.checkpoint.resume import Start
from megatron_train.checkpoint.save_load import load_checkpoint, save_checkpoint
from megatron_train.config.flags import config_from_settings
from megatron_train.config.model_config import ModelConfig
from megatron_train.data.sft_dataset import training_samples
from megatron_train.parallel.device import install
from megatron_train.parallel.distributed import init_distributed, shutdown
from megatron_train.run import Run

VOCABULARY = 16_000


def main(words: list[str] | None = None) -> int:
    """Measure, print the table of memory, and return the exit code. `words` (default: sys.argv) are the flags.

    With several ranks, the program starts itself once more for each rank.
    """
    options = parse_arguments(words)
    if options.save:
        measure(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.prefix = options.prefix or sample_shards(Path(folder))
        options.save = f"{folder}/saved"
        if options.ranks == 1:
            measure(options)
            return 0
        names = ("ranks", "layers", "hidden_size", "vocabulary", "prefix", "save")
        own = [str(Path(__file__)), *(f"--{name}={getattr(options, name)}" for name in names)]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.ranks)]
        return subprocess.run([sys.executable, *launcher, *own], cwd=ROOT).returncode


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4, help="data-parallel ranks [4]")
    parser.add_argument("--layers", type=int, default=8, help="[8]")
    parser.add_argument("--hidden_size", type=int, default=1024, help="[1024]")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help=f"[{VOCABULARY:,}]")
    parser.add_argument("--small", action="store_true", help="a tiny model on one rank: tries the program")
    parser.add_argument("--prefix", help="shard prefix [the sample conversations]")
    parser.add_argument("--save", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.small:
        options.ranks, options.layers, options.hidden_size, options.vocabulary = 1, 1, 64, 3_007
    return options


def measure(options: argparse.Namespace) -> None:
    """Build a training run on this rank, save a checkpoint and load it, and measure the memory of each.

    Rank 0 prints the largest figure of all ranks for each line of the table.
    """
    install("cpu")
    bare = resident("VmRSS")
    settings = {
        "train_data_path": [options.prefix],
        "seq_length": 64,
        "global_batch_size": options.ranks,
        "train_iters": 2,
        "bf16": True,
        "save": options.save,
    }
    config = config_from_settings(settings, "benchmark")
    layout = init_distributed(config.parallel, seed=1)
    model = ModelConfig.load(ROOT / "benchmarks" / "small_llama.yaml")
    model = model.__class__(
        **vars(model)
        | {
            "num_layers": options.layers,
            "hidden_size": options.hidden_size,
            "ffn_hidden_size": options.hidden_size * 11 // 4,
            "kv_channels": None,
            "vocab_size": options.vocabulary,
        }
    )
    run = Run.build(config, layout, model, training_samples(config.data, 2 * options.ranks, seed=1))
    run.step()
    held = resident("VmRSS") - bare
    contents = run.contents()
    saving, folder = peak(lambda: save_checkpoint(contents))
    start = Start(folder, resume=True)
    loading, _ = peak(lambda: load_checkpoint(start, config, run.chunks, run.optimizer, layout))
    figures: list[Any] = [None] * layout.world_size
    dist.all_gather_object(figures, (held, saving - bare, loading - bare))
    if dist.get_rank() == 0:
        held, saving, loading = (max(column) for column in zip(*figures, strict=True))
        print(f"{model.num_parameters():,} parameters in bf16 on {options.ranks} data-parallel ranks, the largest rank")
        print("| | MB | of what it holds |\n|---|---:|---:|")
        for name, size in (
            ("holds for training", held),
            ("peak while saving", saving),
            ("peak while loading", loading),
        ):
            share = f"{size / held:.2f}" if held > 0 else "-"
            print(f"| {name} | {size / 1e6:,.0f} | {share} |")
    shutdown()


def peak(action: Callable[[], Any]) -> tuple[int, Any]:
    """Run `action`. Return this process's peak resident memory during it in bytes, and the action's result."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    result = action()
    return resident("VmHWM"), result


def resident(field: str) -> int:
    """Return the resident memory of this process in bytes: now for `field` VmRSS, at its peak for VmHWM."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
