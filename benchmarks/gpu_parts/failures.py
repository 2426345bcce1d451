"""Let training meet an fp16 overflow, a NaN, SIGTERM and a broken token id, and record what it does."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.model_steps import Bench, random_batch
from benchmarks.gpu_parts.record import Record
from benchmarks.gpu_parts.trainer_runs import MODEL, inputs, train
from megatron_train.parallel.device import install, uses_cuda

SECONDS_TO_STOP = 10.0
"""Largest accepted time from SIGTERM to the end of a run of the miniature model, its save included."""


def run(record: Record, small: bool) -> None:
    install()
    check_nan(record)
    here = "cuda" if uses_cuda() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = inputs(folder)
        check_overflow(record, here, [*given, "--save", folder / "fp16"], folder / "fp16")
        check_signal(record, here, [*given, "--save", folder / "signal"], folder / "signal")
        wrong = inputs(folder, vocab_size=MODEL.vocab_size * 100)
        done = train(here, [*wrong, "--train_iters", 4, "--save", folder / "wrong"])
        names_id = "token id" in done.message and "vocabulary rows" in done.message
        record.fact("a token id above the vocabulary ends the run", done.code == 1 and names_id, message=done.message)


def check_nan(record: Record) -> None:
    """Record whether a micro-batch with a NaN loss leaves the weights unchanged, and the next one updates them."""
    bench = Bench.build(MODEL, {"seq_length": 48, "packing": True, "lr": 1e-2, "bf16": True})
    before = weights(bench)
    broken, sound = random_batch(bench.model, bench.config), random_batch(bench.model, bench.config)
    broken.loss_factor = float("nan")
    result = bench.step([broken])
    record.fact("a NaN leaves the weights unchanged", not result.is_applied and torch.equal(before, weights(bench)))
    result = bench.step([sound])
    record.fact("the next update is applied", result.is_applied and not torch.equal(before, weights(bench)))


def weights(bench: Bench) -> torch.Tensor:
    return torch.cat([parameter.detach().float().flatten() for _, parameter in bench.named_parameters()])


def check_overflow(record: Record, here: str, given: list[Any], save: Path) -> None:
    """Record whether an fp16 run that starts with a loss scale of 2^24 lowers it and then updates the weights.

    `here` is this machine's device, `given` the flags of the run, and `save` its folder.
    """
    done = train(here, [*given, "--fp16", "--initial_loss_scale", 2**24, "--train_iters", 24])
    rows = steps_of(save) if done.code == 0 else []
    scale = rows[-1]["loss_scale"] if rows else None
    applied = sum(not row["skipped"] for row in rows)
    passed = bool(rows) and scale < 2**24 and applied > 0
    record.fact("fp16 lowers a loss scale of 2^24", passed, scale=scale, applied=applied, message=done.message or None)


def check_signal(record: Record, here: str, given: list[Any], save: Path) -> None:
    """Send SIGTERM to a training run after its first iterations, and record whether and how fast it saves and ends.

    `here` is this machine's device, `given` the flags of the run, and `save` its folder.
    """
    sent: list[float] = []

    def send_when_training() -> None:
        while not (save / "metrics.jsonl").is_file() or not steps_of(save):
            time.sleep(0.05)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    waiting = threading.Thread(target=send_when_training, daemon=True)
    done = train(here, [*given, "--train_iters", 5000], meanwhile=waiting.start)
    seconds = time.monotonic() - sent[0] if sent else float("nan")
    saved = (save / "latest_checkpointed_iteration.txt").is_file()
    record.check("seconds from SIGTERM to the end", seconds, SECONDS_TO_STOP)
    record.fact("SIGTERM saves a checkpoint", done.code == 0 and saved, message=done.message or None)


def steps_of(save: Path) -> list[dict[str, Any]]:
    """Return the records of iterations in metrics.jsonl of the folder `save`, without a line that is being written."""
    lines = (save / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [row for row in map(json.loads, lines) if "lm_loss" in row]
