"""Replay the first iteration of a training run on the CPU, and compare its figures bitwise with the recorded ones.

    iteration = recorded_iteration([Path("checkpoints/stage2/iter_0000346"), Path("checkpoints/stage1/iter_0000500")])
    replay(iteration)                  # Replay(problem="", ...) when loss and gradient norm are bitwise equal

The replay has the same starting checkpoint, shards, settings and number of processes as the run. Loss and gradient norm
depend on every weight and on every token of the first batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from checkpoint_convert.huggingface.lineage import training_settings
from checkpoint_convert.tensors.tensor import human_bytes
from megatron_train.checkpoint.folder import MODEL_CONFIG, TRAIN_STATE
from megatron_train.config.model_config import ModelConfig
from pretokenizer.files.publish import read_json

METRICS, RNG_FILE = "metrics.jsonl", "rng_state.safetensors"
FIGURES = ("lm_loss", "grad_norm", "num_target_tokens", "num_tokens", "lr")
BYTES_PER_PARAMETER = 24
"""Bytes of memory: weights, gradients and optimizer states in fp32, and the checkpoint that the replay saves."""
LARGEST_WORLD = 16
UNWANTED = (
    "load_iters", "tensorboard_dir", "wandb_logger", "profile_iters", "save_total_limit", "save_interval",
    "async_save", "exit_duration_in_mins", "data_cache_path",
)  # fmt: skip
"""Settings of a run that a replay leaves out: they write files elsewhere or end the run early."""


@dataclass(frozen=True)
class Iteration:
    """The figures of one training iteration, and all that is needed to compute them again."""

    checkpoint: str
    """Folder of the checkpoint whose train_config.yaml has the settings of the run."""
    start: str | None
    """Folder of the checkpoint that the run started from, or None when it started from random weights."""
    world_size: int
    """Number of processes of the run."""
    iteration: int
    figures: dict[str, Any]
    """Loss, gradient norm, numbers of tokens and learning rate of the iteration."""


@dataclass(frozen=True)
class Replay:
    """The result of repeating a recorded training iteration."""

    line: str
    """What was compared, or why nothing was."""
    problem: str = ""
    """The figures that differ; empty when all are bitwise equal or nothing was compared."""


def recorded_iteration(chain: Sequence[Path]) -> Iteration | None:
    """Return the recorded first iteration of the run that saved the checkpoint chain[0] and started from chain[1].

    `chain` is the result of `ancestors`. Return None when it cannot be replayed on a CPU: the run used CUDA, has no
    metrics, or resumed a folder that no longer exists.
    """
    checkpoint = chain[0]
    settings = training_settings(checkpoint)
    path = checkpoint.parent / METRICS
    if not settings or not path.is_file() or not _ran_on_cpu(checkpoint):
        return None
    loaded = settings.get("load")
    if loaded and (len(chain) < 2 or Path(loaded).resolve() == checkpoint.resolve().parent):
        return None
    records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    first = next((record for record in records if record.get("lm_loss") is not None), None)
    world_size = read_json(checkpoint / TRAIN_STATE).get("world_size")
    if first is None or not world_size:
        return None
    figures = {name: first[name] for name in FIGURES if name in first}
    return Iteration(str(checkpoint), str(chain[1]) if loaded else None, world_size, first["iteration"], figures)


def _ran_on_cpu(checkpoint: Path) -> bool:
    """Return whether the random states of a checkpoint are those of CPU processes."""
    try:
        with safe_open(checkpoint / RNG_FILE, framework="pt") as file:
            return (file.metadata() or {}).get("layout", "").endswith("-cpu")
    except (OSError, SafetensorError):
        return False


def replay(recorded: Iteration) -> Replay:
    """Train the recorded iteration again in a temporary folder, and compare its figures bitwise.

    If this machine cannot repeat it, nothing is compared and the result says why. Call it only after check_receipt has
    verified the files, because the trainer reads them.
    """
    reason = reason_against(recorded)
    if reason:
        return Replay(f"not replayed: {reason}")
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        done = subprocess.run(
            launch_command(recorded, Path(folder)),
            capture_output=True,
            text=True,
            env=os.environ | {"OASST_DEVICE": "cpu"},
        )
        path = Path(folder) / "run" / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = {record["iteration"]: record for record in map(json.loads, lines) if "lm_loss" in record}
    name = f"iteration {recorded.iteration} of {Path(recorded.checkpoint).parent}"
    if done.returncode or recorded.iteration not in records:
        last = next(iter(reversed(done.stderr.strip().splitlines())), f"exit code {done.returncode}")
        return Replay(f"replayed: {name}", f"{name} cannot be replayed: {last}")
    return compared(name, recorded.figures, records[recorded.iteration])


def compared(name: str, expected: dict[str, Any], found: dict[str, Any]) -> Replay:
    """Compare an iteration's `found` figures with the `expected` (recorded) ones bitwise.

    `name` describes the iteration in the result.
    """
    different = [
        f"{key} {value!r} is {found.get(key)!r} here" for key, value in expected.items() if found.get(key) != value
    ]
    if not different:
        return Replay(f"replayed: {name}, loss {expected['lm_loss']:.6f}: all figures are bitwise equal")
    reason = "another version of torch or of this project, or another kind of CPU, also gives other last digits"
    return Replay(f"replayed: {name}", f"{name}: {'; '.join(different)} ({reason})")


def reason_against(recorded: Iteration) -> str:
    """Return why an iteration cannot be repeated on this machine, or an empty string if it can.

    Reasons are missing checkpoints, more than LARGEST_WORLD processes, and too little free memory.
    """
    checkpoint = Path(recorded.checkpoint)
    folders = [checkpoint, *([Path(recorded.start)] if recorded.start else [])]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        return f"{' and '.join(missing)} not here"
    if recorded.world_size > LARGEST_WORLD:
        return f"the run had {recorded.world_size} processes"
    model = ModelConfig.load(checkpoint / MODEL_CONFIG)
    import psutil  # only a replay needs it, not a conversion

    needed, free = BYTES_PER_PARAMETER * model.num_parameters(model.padded_vocab), psutil.virtual_memory().available
    if needed > free:
        return f"training needs {human_bytes(needed)}, {human_bytes(free)} available"
    return ""


def launch_command(recorded: Iteration, folder: Path) -> list[str]:
    """Write the settings of the replay into `folder`, and return the trainer's command that runs one iteration."""
    settings = {
        name: value for name, value in training_settings(Path(recorded.checkpoint)).items() if name not in UNWANTED
    }
    settings |= {"save": str(folder / "run"), "exit_interval": 1, "eval_iters": 0}
    if recorded.start:
        settings["load"] = recorded.start
    config = folder / "replay.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "megatron_train"]
    if recorded.world_size > 1:
        command += ["launch", "--nproc_per_node", str(recorded.world_size)]
    return [*command, "--config", str(config)]
