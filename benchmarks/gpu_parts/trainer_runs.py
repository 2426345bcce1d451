"""Run the trainer's own command on toy data, in this process or in another one, for parts of the GPU report."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_train.__main__ import main
from megatron_train.config.model_config import ModelConfig
from megatron_train.parallel.device import DEVICE_VARIABLE, uses_cuda
from megatron_train.parallel.stop_request import SIGNALS
from pretokenizer.files.shard import ShardWriter

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelConfig("llama", 2, 64, 96, 4, 120, 64, num_query_groups=2)
"""The miniature model of these runs."""
SETTINGS = (
    *("--seq_length", "48", "--packing", "--micro_batch_size", "2", "--global_batch_size", "4"),
    *("--lr", "1e-3", "--lr_decay_style", "constant", "--log_interval", "1000"),
)


@dataclass(frozen=True)
class Done:
    """The end of a training run: its exit code, and the last line that it wrote to stderr."""

    code: int
    message: str


def write_shard(prefix: Path, documents: int, longest: int, vocab_size: int) -> Path:
    """Write shards of documents with 4 to `longest` random token ids below `vocab_size`. Return their path `prefix`.

    In each document, the first token is the user's and the others are the assistant's. A model with fewer vocabulary
    rows than `vocab_size` cannot train on them.
    """
    rng = np.random.RandomState(0)
    with ShardWriter(f"{prefix}-text", np.int32) as text, ShardWriter(f"{prefix}-role", np.uint16) as role:
        for _ in range(documents):
            size = int(rng.randint(4, longest + 1))
            text.add(rng.randint(3, vocab_size, size).tolist())
            role.add([1, *[2] * (size - 1)])
    return prefix


def inputs(folder: Path, vocab_size: int = MODEL.vocab_size) -> list[Any]:
    """Write the miniature model and toy shards to `folder`, and return the flags of a training run on them.

    The token ids are below `vocab_size`; a larger one than the model's gives broken data.
    """
    MODEL.save(folder / "model.yaml")
    prefix = write_shard(folder / "toy", 64, 40, vocab_size)
    return ["--model", folder / "model.yaml", "--train_data_path", prefix, *SETTINGS]


def train(device: str, arguments: list[Any], meanwhile: Callable[[], None] | None = None) -> Done:
    """Run the trainer on `device`, `cpu` or `cuda`: in this process if it computes there, else in another one.

    `meanwhile` is called before a run in this process starts; it may start a thread.
    """
    words = [str(word) for word in arguments]
    if device != ("cuda" if uses_cuda() else "cpu"):
        environment = os.environ | {DEVICE_VARIABLE: device, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "ignore", "-m", "megatron_train", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return Done(done.returncode, last_line(done.stderr))
    handlers = [(number, signal.getsignal(number)) for number in SIGNALS]
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            if meanwhile is not None:
                meanwhile()
            code = main(words)
    except Exception:
        stderr.write(traceback.format_exc())
        code = 1
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    return Done(code, last_line(stderr.getvalue()))


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
