"""Move a checkpoint from the CPU to this device and back, and compare the losses of the iterations that follow it.

Runs of the trainer's own command: the CPU trains 9 iterations and saves every third. This device resumes the third and
saves iterations 5 and 8. This device and the CPU both resume iteration 5, and the CPU resumes an asynchronous save.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.record import Record
from benchmarks.gpu_parts.trainer_runs import inputs, train
from megatron_train.parallel.device import install, uses_cuda

LIMIT = 1e-3
"""Largest relative difference of two losses that passes: fp32 on two devices, after a few updates."""


def run(record: Record, small: bool) -> None:
    install()
    here = "cuda" if uses_cuda() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = inputs(folder)

        def losses(device: str, run_name: str, *flags: Any) -> dict[int, float]:
            return losses_of(device, [*given, "--save", folder / run_name, *flags], folder / run_name)

        whole = losses("cpu", "whole", "--train_iters", 9, "--save_interval", 3)
        from_cpu = ("--load", folder / "whole" / "iter_0000003")
        moved = losses(here, "moved", "--train_iters", 8, *from_cpu, "--save_interval", 5)
        check(record, f"CPU to {here}, iterations 4 to 8", moved, whole)
        middle = ("--train_iters", 8, "--load", folder / "moved" / "iter_0000005")
        check(record, f"{here} to {here}, iterations 6 to 8", losses(here, "again", *middle, "--async_save"), moved)
        check(record, f"{here} to CPU, iterations 6 to 8", losses("cpu", "back", *middle), moved)
        last = ("--train_iters", 9, "--load", folder / "again" / "iter_0000008")
        check(record, f"asynchronous save on {here} to CPU, iteration 9", losses("cpu", "end", *last), whole)


def losses_of(device: str, arguments: list[Any], save: Path) -> dict[int, float]:
    """Train on `device` (`cpu` or `cuda`), and return {iteration: loss} from metrics.jsonl in the folder `save`.

    `arguments` are the flags of the run. Raises RuntimeError when it fails.
    """
    done = train(device, arguments)
    if done.code:
        raise RuntimeError(f"the run {save.name} on {device} failed: {done.message}")
    rows = [json.loads(line) for line in (save / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["iteration"]: row["lm_loss"] for row in rows if "lm_loss" in row}


def check(record: Record, name: str, found: dict[int, float], expected: dict[int, float]) -> None:
    """Record the largest relative difference between two runs' losses, over the iterations in `found`.

    Both map iterations to losses. The check passes up to LIMIT.
    """
    record.check(name, max(abs(loss / expected[at] - 1) for at, loss in found.items()), LIMIT)
