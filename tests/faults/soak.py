"""Train for long: memory, open files and threads may not grow, and twenty resumptions may change nothing.

    python -m tests.faults.soak                                   # 2,000 iterations, one process
    python -m tests.faults.soak --processes 2 --iterations 2000   # two data-parallel processes

The script trains a tiny model twice, with packing, LIMA dropout, evaluation and a checkpoint every 100 iterations. The
first run is not interrupted. The second one stops after each checkpoint, written with --async_save, and resumes. Losses
and evaluations must be equal to the last bit. Resident memory, open files and threads of every process are sampled, and
a straight line is fitted to the second half of the samples, where all caches are warm.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from megatron_train.certificate.local_ranks import run_distributed
from tests.conftest import TINY_LLAMA, toy_documents, write_shard
from tests.faults.tally import Tally

SAMPLE_EVERY = 10
LIMITS = {"memory_mib": 8.0, "open_files": 1.0, "threads": 1.0}
"""Largest rise of the fitted line over the second half, by quantity."""


@dataclass(frozen=True)
class Sample:
    """Resources of one process at one iteration."""

    iteration: int
    memory_mib: float
    open_files: int
    threads: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument(
        "--interval", type=int, default=100, help="iterations between checkpoints and resumptions [100]"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1234)
    options = parser.parse_args()
    tally = Tally("soak", options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        flags = write_run(root, options)
        whole = [*flags, "--save", str(root / "whole")]
        parts = [*flags, "--save", str(root / "parts"), "--async_save", "--exit_interval", str(options.interval)]
        for name, words, launches in (("one go", whole, 1), ("resumed", parts, options.iterations // options.interval)):
            ranks = run_distributed(train_and_sample, options.processes, words, launches, timeout=3600, fresh=True)
            problems = [problem for rank, samples in enumerate(ranks) for problem in report(name, rank, samples)]
            said = f"{options.iterations:,} iterations on {options.processes} processes in {launches} launches"
            tally.add(name, options.iterations, problems, said)
        tally.add("losses", options.iterations, differences(root, options.iterations, options.interval))
    return tally.close()


def write_run(root: Path, options: argparse.Namespace) -> list[str]:
    """Write data and model, and return the flags that both runs share."""
    TINY_LLAMA.save(root / "model.yaml")
    train = write_shard(root / "train", toy_documents(300, options.seed))
    valid = write_shard(root / "valid", toy_documents(20, options.seed + 1))
    return [
        *("--model", str(root / "model.yaml"), "--train_data_path", train, "--valid_data_path", f"valid={valid}"),
        *("--seq_length", "64", "--packing", "--global_batch_size", "4", "--micro_batch_size", "1"),
        *("--train_iters", str(options.iterations), "--lr", "1e-3", "--seed", str(options.seed)),
        *("--hidden_dropout", "0.25", "--lima_dropout", "--log_interval", "500", "--save_total_limit", "2"),
        *("--save_interval", str(options.interval), "--eval_interval", str(options.interval // 2)),
    ]


def train_and_sample(flags: list[str], launches: int) -> list[Sample]:
    """Run the trainer `launches` times in one process and take a sample every ten iterations."""
    from megatron_train.config.flags import parse
    from megatron_train.run import Run
    from megatron_train.train import train

    samples: list[Sample] = []
    Run.step = sampling(Run.step, samples)  # type: ignore[method-assign]
    with Path(os.devnull).open("w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
        for _ in range(launches):
            train(parse(flags))
            gc.collect()  # the models of the previous launch are in reference cycles
    return samples


def sampling(original: Callable[[Any], Any], samples: list[Sample]) -> Callable[[Any], Any]:
    """Return a Run.step that also takes a sample at every tenth iteration."""
    process = psutil.Process()

    def step(run: Any) -> Any:
        report = original(run)
        if report.iteration % SAMPLE_EVERY == 0:
            memory = process.memory_info().rss / 2**20
            samples.append(Sample(report.iteration, memory, process.num_fds(), process.num_threads()))
        return report

    return step


def report(name: str, rank: int, samples: list[Sample]) -> list[str]:
    """Print the slopes and return those that rise too much."""
    half = samples[len(samples) // 2 :]
    iterations = np.array([sample.iteration for sample in half], dtype=float)
    problems = []
    for quantity, limit in LIMITS.items():
        values = np.array([getattr(sample, quantity) for sample in half], dtype=float)
        slope = float(np.polyfit(iterations, values, 1)[0])
        rise = slope * (iterations[-1] - iterations[0])
        print(
            f"soak: {name}: rank {rank}: {quantity} {getattr(samples[0], quantity):.1f} at iteration "
            f"{samples[0].iteration}, {values[0]:.1f} half-way, {values[-1]:.1f} at the end; "
            f"slope {slope * 1000:+.3f} in 1,000 iterations",
            flush=True,
        )
        if rise > limit:
            problems.append(
                f"{name}: rank {rank}: {quantity} rises by {rise:.1f} in the second half, more than {limit}"
            )
    return problems


def differences(root: Path, iterations: int, interval: int) -> list[str]:
    """Return the places where the metrics of both runs differ. Times are not compared.

    The resumed run stops every `interval` iterations, and a stop skips the evaluation that is due.
    """
    found = []
    for name in ("whole", "parts"):
        records = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
        steps = {r["iteration"]: (r["lm_loss"], r["grad_norm"], r["lr"]) for r in records if "lm_loss" in r}
        found.append((steps, {r["iteration"]: r["eval"] for r in records if "eval" in r}))
    (steps, evals), (other_steps, other_evals) = found
    evals = {i: result for i, result in evals.items() if i % interval or i == iterations}
    problems = [] if len(steps) == iterations else [f"{len(steps)} iterations were reported"]
    for kind, one, other in (("iteration", steps, other_steps), ("evaluation", evals, other_evals)):
        unequal = [i for i in sorted(one.keys() | other.keys()) if one.get(i) != other.get(i)]
        if unequal:
            problems.append(
                f"{len(unequal)} differ, first {kind} {unequal[0]}: {one.get(unequal[0])} and {other.get(unequal[0])}"
            )
    first, last = steps[1][0], steps[iterations][0]
    print(
        f"soak: loss {first:.4f} at iteration 1, {last:.4f} at {iterations}; {len(evals)} evaluations compared",
        flush=True,
    )
    return problems


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"soak: {time.monotonic() - started:.0f} s")
    sys.exit(status)
