"""Compare useful tokens per second: our trainer, packed and padded, and transformers in a plain loop on the same data.

    python benchmarks/train.py                          sample conversations, a small Llama, whatever device is here
    python benchmarks/train.py --prefix OUT/gsm8k-train --prefix OUT/oasst-train --seq_length 512 --rounds 5
    python benchmarks/train.py --model MODEL.yaml --prefix ... --seq_length 4096 --bf16        on a GPU

Each measurement is a process of its own; the modes take turns, round by round; medians and their ratios are printed.
Only document tokens count, padding does not; a step is forward, backward and AdamW. `two TP` and `two DP` run on two
processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODES = ("ours packed", "ours padded", "transformers packed", "transformers padded", "two TP", "two DP")
RATIOS = (
    ("ours packed", "transformers packed", 1.0),
    ("ours packed", "transformers padded", 1.5),
    ("two TP", "ours packed", 1.5),
    ("two DP", "ours packed", 1.5),
)
"""(numerator, denominator, wanted) of each ratio of two modes' tokens per second. `wanted` is a lower bound."""


def main(words: list[str] | None = None) -> int:
    """Measure every mode, print the tables, and return the exit code. `words` (default: sys.argv) are the flags."""
    options = parse_arguments(words)
    if options.measure:
        print("RESULT " + json.dumps(measure(options)), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if not options.prefix:
            options.prefix = [sample_shards(Path(folder))]
        results: dict[str, list[float]] = {mode: [] for mode in options.modes}
        for number in range(options.rounds):
            for mode in options.modes:
                results[mode].append(run_measurement(mode, options))
                print(f"round {number + 1}: {mode:<20} {results[mode][-1]:10,.0f} tokens/s", flush=True)
    print_table(results)
    return 0


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options that `words` (default: sys.argv) give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prefix", action="append", default=[], help="shard prefix, repeatable [the sample conversations]"
    )
    parser.add_argument("--documents", type=int, default=2000, help="documents taken in turn from the prefixes [2000]")
    parser.add_argument(
        "--model", default=str(ROOT / "benchmarks" / "small_llama.yaml"), help="architecture, of the Llama family"
    )
    parser.add_argument("--seq_length", type=int, default=512, help="row length in tokens [512]")
    parser.add_argument("--micro_batch_size", type=int, default=8, help="padded rows per step [8]")
    parser.add_argument("--packed_rows", type=int, default=4, help="packed rows per step [4]")
    parser.add_argument("--steps", type=int, default=4, help="timed steps per measurement [4]")
    parser.add_argument("--warm_up", type=int, default=1, help="steps before the timed ones; take 3 on a GPU [1]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--small", action="store_true", help="a tiny model, two modes, one step, in this process")
    parser.add_argument("--measure", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.small:
        options.model = str(ROOT / "configs" / "model" / "tiny_llama.yaml")
        options.seq_length, options.steps, options.rounds = 64, 1, 1
        options.modes = ["ours packed", "transformers packed"]
    return options


def sample_shards(folder: Path) -> str:
    """Write the shards of the demo's stage 1 below `folder`, and return the path prefix of the train shards."""
    build = ["-m", "pretokenizer", "build", "--configs", "demo_stage1", "sample", "--data_dir", "examples/data"]
    subprocess.run(
        [sys.executable, *build, "--output_dir", str(folder / "data"), "--output_dir_suffix", ""],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    return str(folder / "data" / "demo_stage1-train")


def run_measurement(mode: str, options: argparse.Namespace) -> float:
    """Measure one mode in a process of its own, or in two, and return document tokens per second.

    With --small, it runs in this process. Raises SystemExit when the measurement fails.
    """
    if options.small:
        result = measure(argparse.Namespace(**vars(options) | {"measure": mode}))
        return float(result["tokens"] / result["seconds"])
    words = [str(Path(__file__)), "--measure", mode]
    for name in ("documents", "model", "seq_length", "micro_batch_size", "packed_rows", "steps", "warm_up"):
        words += [f"--{name}", str(getattr(options, name))]
    words += [word for prefix in options.prefix for word in ("--prefix", prefix)] + (["--bf16"] if options.bf16 else [])
    launcher = [sys.executable]
    if mode.startswith("two"):
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, env=environment, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{mode} failed:\n{done.stdout}{done.stderr}")
    result = json.loads(lines[0][len("RESULT ") :])
    return float(result["tokens"] / result["seconds"])


def print_table(results: dict[str, list[float]]) -> None:
    medians = {mode: statistics.median(values) for mode, values in results.items() if values}
    print("\n| mode | document tokens/s, median | lowest | highest |\n|---|---:|---:|---:|")
    for mode, values in results.items():
        print(f"| {mode} | {medians[mode]:,.0f} | {min(values):,.0f} | {max(values):,.0f} |")
    print("\n| ratio, median of rounds | measured | wanted |\n|---|---:|---:|")
    for above, below, wanted in RATIOS:
        if above in results and below in results:
            ratio = statistics.median(a / b for a, b in zip(results[above], results[below], strict=True))
            print(f"| {above} / {below} | {ratio:.2f} | {wanted:.1f} |")


def measure(options: argparse.Namespace) -> dict[str, float]:
    step: Any = transformers_steps(options) if options.measure.startswith("transformers") else our_steps(options)
    for _ in range(options.warm_up):
        next(step)
    started, tokens = time.perf_counter(), 0
    for _ in range(options.steps):
        tokens += next(step)
    result = {"tokens": tokens, "seconds": time.perf_counter() - started}
    step.close()
    return result


def our_steps(options: argparse.Namespace) -> Iterator[int]:
    """Train with the trainer's own Run, and yield the number of document tokens of each step."""
    from megatron_train.config.flags import config_from_settings
    from megatron_train.config.model_config import ModelConfig
    from megatron_train.data.sft_dataset import training_samples
    from megatron_train.parallel.device import install
    from megatron_train.parallel.distributed import init_distributed, shutdown
    from megatron_train.run import Run

    install()
    packed = options.measure != "ours padded"
    rows = options.packed_rows if packed else options.micro_batch_size
    ranks = 2 if options.measure == "two DP" else 1
    settings = {
        "train_data_path": [word for prefix in options.prefix for word in ("1", prefix)]
        if len(options.prefix) > 1
        else options.prefix,
        "seq_length": options.seq_length,
        "packing": packed,
        "micro_batch_size": rows // ranks,
        "global_batch_size": rows,
        "train_iters": options.steps + options.warm_up,
        "bf16": options.bf16,
        "tensor_model_parallel_size": 2 if options.measure == "two TP" else 1,
    }
    config = config_from_settings(settings, "benchmark")
    layout = init_distributed(config.parallel, seed=1)
    model = ModelConfig.load(options.model)
    samples = training_samples(config.data, rows * (options.steps + options.warm_up), seed=1)
    run = Run.build(config, layout, model, samples)
    try:
        while True:
            yield run.step().num_tokens
    finally:
        shutdown()


def transformers_steps(options: argparse.Namespace) -> Iterator[int]:
    """Train in a plain loop (transformers' class and loss, AdamW, clipping), and yield each step's document tokens."""
    import torch
    import transformers

    from megatron_train.parallel.device import uses_cuda

    device = torch.device("cuda" if uses_cuda() else "cpu")
    model: Any = transformers.LlamaForCausalLM(llama_config(options)).to(device)
    if options.bf16:
        model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    collate = packed_rows if options.measure.endswith("packed") else padded_rows
    for batch, tokens in collate(documents(options), options):
        loss = model(**{name: value.to(device) for name, value in batch.items()}, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        yield tokens


def llama_config(options: argparse.Namespace) -> Any:
    import transformers

    from megatron_train.config.model_config import ModelConfig

    model = ModelConfig.load(options.model)
    if model.family != "llama":
        raise SystemExit(f"{options.model}: {asdict(model)['family']}; the comparison is written for the Llama family")
    return transformers.LlamaConfig(
        vocab_size=model.padded_vocab,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.query_groups,
        max_position_embeddings=model.max_position_embeddings,
        attn_implementation="sdpa",
    )


def documents(options: argparse.Namespace) -> list[Any]:
    """Return (token ids, target mask) of the first documents of each prefix, mixed in a fixed order.

    Both are arrays [tokens], cut to the length of a row. The mask is true for the assistant's tokens.
    """
    import numpy as np

    from pretokenizer.chat.roles import Role
    from pretokenizer.files.shard import ShardReader

    found = []
    for prefix in options.prefix:
        text, role = ShardReader(f"{prefix}-text"), ShardReader(f"{prefix}-role")
        for index in range(min(len(text), options.documents // len(options.prefix))):
            ids = text[index][: options.seq_length].astype(np.int64)
            found.append((ids, role[index][: options.seq_length] == Role.ASSISTANT))
    return [found[i] for i in np.random.RandomState(1).permutation(len(found))]


Rows = Iterator[tuple[dict[str, Any], int]]
"""Batches: the inputs of a model of transformers, and the number of document tokens in them."""


def padded_rows(found: list[Any], options: argparse.Namespace) -> Rows:
    """Yield (model inputs, number of document tokens) of batches of `micro_batch_size` rows, without end.

    A row is one document of `found`, the result of `documents`, padded to the longest of its batch.
    """
    import torch

    while True:
        for first in range(0, len(found) - options.micro_batch_size + 1, options.micro_batch_size):
            group = found[first : first + options.micro_batch_size]
            width = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
            for row, (tokens, targets) in enumerate(group):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.from_numpy(tokens), 1
                labels[row, : len(tokens)] = torch.where(torch.from_numpy(targets), torch.from_numpy(tokens), -100)
            yield {"input_ids": ids, "labels": labels, "attention_mask": mask}, sum(len(tokens) for tokens, _ in group)


def packed_rows(found: list[Any], options: argparse.Namespace) -> Rows:
    """Yield (model inputs, number of document tokens) of batches packed as transformers does it, without end.

    A batch is one long row of whole documents, with position_ids that restart at each and no attention mask.
    """
    import torch

    space = options.packed_rows * options.seq_length
    group: list[Any] = []
    while True:
        for document in found:
            if group and sum(len(ids) for ids, _ in group) + len(document[0]) > space:
                ids = torch.cat([torch.from_numpy(tokens) for tokens, _ in group])
                targets = torch.cat([torch.from_numpy(mask) for _, mask in group])
                positions = torch.cat([torch.arange(len(tokens)) for tokens, _ in group])
                labels = torch.where(targets & (positions > 0), ids, -100)
                yield {"input_ids": ids[None], "labels": labels[None], "position_ids": positions[None]}, len(ids)
                group = []
            group.append(document)


if __name__ == "__main__":
    sys.exit(main())
