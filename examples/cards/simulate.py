"""`make simulate`: run a card's own topology as processes on the CPU, with thin layers in the card's number.

For llama2-70b-oasst-sft-v10: TP8 x PP4 with sequence parallelism = 32 processes, 80 layers, 64 heads in 8 groups, two
iterations of each stage on the sample data. In fp32 without dropout the losses must equal the one-process run within
1e-5; a third run with the card's own precision and dropout trains, and the rate of each layer is printed. Takes 10
minutes on two cores, and about 12 GiB.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from examples.cards.answer import read_losses
from examples.cards.card import Card
from examples.cards.commands import launch, module, run
from examples.cards.miniature import Miniature
from megatron_train.config.flags import parse
from pretokenizer.config.yaml_config import ConfigError

ITERATIONS = 2
TOLERANCE = 1e-5
HEAD_DIM = 2
"""Channels of a thin head: the smallest number that rotary embeddings can rotate."""
THIN = ("--seq_length", "128", "--micro_batch_size", "1", "--global_batch_size", "4", "--wandb_logger", "false")
PATIENCE = ("--distributed_timeout_minutes", "60")
"""Flags for many more processes than cores, in which a rank may wait long for its turn."""


def simulate(card: Card, folder: Path) -> int:
    """Train the stages of a published model with thin layers, in one process and in its own topology, on the CPU.

    Compare the losses. Return 0 if each agrees within TOLERANCE, else 1. Earlier results in `folder` are removed.
    Raises ConfigError for a card without tensor or pipeline parallelism.
    """
    config = parse(["--config", next(iter(card.stages.values())).config]).config
    size = config.parallel.tensor_model_parallel_size * config.parallel.pipeline_model_parallel_size
    if size == 1:
        raise ConfigError(f"{card.name} runs on one rank; only cards with tensor or pipeline parallelism are simulated")
    if folder.exists():
        shutil.rmtree(folder)
    prepare(card, folder)
    stages = list(card.stages)
    started = time.perf_counter()
    run(module("examples.cards.simulate_ranks", *rank_arguments(card, folder, "one", stages, alone=True)))
    print(f"\none process: {time.perf_counter() - started:.0f} s; now {size} processes", flush=True)
    started = time.perf_counter()
    peak = run_watched(launch(size, "examples.cards.simulate_ranks", *rank_arguments(card, folder, "all", stages)))
    print(f"\n{size} processes: {time.perf_counter() - started:.0f} s, peak memory {peak / 2**30:.1f} GiB")
    return compare(folder, stages)


def prepare(card: Card, folder: Path) -> None:
    """Write the shards of every stage and a thin base model with the card's number of layers, heads and groups."""
    model = card.model
    thin = {
        "num_layers": model.num_layers,
        "hidden_size": model.num_attention_heads * HEAD_DIM,
        "ffn_hidden_size": 4 * model.num_attention_heads,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.query_groups,
        "kv_channels": HEAD_DIM,
        "rotary_percent": 1.0,
    }
    miniature = Miniature(card, folder, sizes=thin)
    for stage in card.stages:
        miniature.prepare(stage)


def rank_arguments(card: Card, folder: Path, name: str, stages: list[str], alone: bool = False) -> list[str]:
    """Return the arguments of simulate_ranks: a `+` and the training flags for each run.

    There is one run in fp32 without dropout for each stage. Without `alone` (one process), a run of the last stage with
    the card's own precision and dropout follows. `name` starts the names of the --save folders.
    """
    words: list[str] = []
    for stage in stages:
        words += ["+", *flags_of(card, folder, name, stage, alone), "--bf16", "false", "--fp16", "false"]
        words += ["--hidden_dropout", "0", "--lima_dropout", "false"]
    if not alone:
        own = flags_of(card, folder, "own", stages[-1], alone)
        own[own.index("--load") + 1] = str(folder / "base")
        words += ["+", *own]
    return words


def flags_of(card: Card, folder: Path, name: str, stage: str, alone: bool) -> list[str]:
    """Return the flags that train ITERATIONS iterations of a stage's configuration on the sample shards.

    `alone` replaces the card's parallel layout by one process. `name` starts the name of the --save folder.
    """
    prefix = folder / f"data_{stage}" / card.stage(stage).prefix
    kind = "--data_path" if card.uses_sentencepiece else "--train_data_path"
    flags = ["--config", card.stage(stage).config, kind, f"{prefix}-train", "--load", str(folder / "base")]
    flags += [
        "--use_checkpoint_args",
        "--save",
        str(folder / f"{name}_{stage}"),
        "--tensorboard_dir",
        str(folder / "logging"),
    ]
    flags += ["--train_iters", str(ITERATIONS), "--lr_warmup_iters", "0", "--eval_iters", "0", *THIN, *PATIENCE]
    if alone:
        flags += [
            "--tensor_model_parallel_size",
            "1",
            "--pipeline_model_parallel_size",
            "1",
            "--sequence_parallel",
            "false",
        ]
    return flags


def run_watched(command: list[str]) -> int:
    """Run a command, and return the peak of the memory that all its processes take together, in bytes.

    Raises CalledProcessError.
    """
    process = subprocess.Popen(command)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(2.0):
            peak[0] = max(peak[0], memory_of(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return peak[0]


def memory_of(pid: int) -> int:
    """Return the memory of a process and its children in bytes. Pages that they share count once."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in family:
        try:
            info = one.memory_full_info()
            total += getattr(info, "pss", 0) or info.uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def compare(folder: Path, stages: list[str]) -> int:
    """Print the losses of one process and of all processes with their relative difference, iteration by iteration.

    Return 0 if no difference exceeds TOLERANCE, else 1.
    """
    worst = 0.0
    for stage in stages:
        alone, together = read_losses(folder / f"one_{stage}"), read_losses(folder / f"all_{stage}")
        for iteration, (first, second) in enumerate(zip(alone, together, strict=True), start=1):
            apart = abs(second - first) / abs(first)
            worst = max(worst, apart)
            print(f"{stage} iteration {iteration}: one process {first:.7f}, all {second:.7f}, {apart:.1e} apart")
    own = ", ".join(f"{loss:.4f}" for loss in read_losses(folder / f"own_{stages[-1]}"))
    print(f"{stages[-1]} in the card's precision with its dropout: losses {own}")
    verdict = worst <= TOLERANCE
    print(f"{'equal' if verdict else 'NOT EQUAL'}: the largest difference is {worst:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if verdict else 1


if __name__ == "__main__":
    sys.exit("use: python -m examples.cards simulate --card NAME")
