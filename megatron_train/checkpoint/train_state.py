"""How far a run has come, and the random streams of its ranks. JSON and safetensors: nothing here is a pickle."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import tensor_parallel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from megatron_train.checkpoint.folder import TRAIN_STATE, CheckpointError
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.parallel.device import uses_cuda
from pretokenizer.config.yaml_config import from_mapping
from pretokenizer.files.publish import read_json

RNG_FILE = "rng_state.safetensors"


@dataclass(frozen=True)
class TrainState:
    """Counts since the run began; samples are rows of the training order."""

    iteration: int = 0
    consumed_train_samples: int = 0
    skipped_iterations: int = 0
    """Iterations whose update was not applied: not finite, a spike, or listed in skip_iters."""
    data_fingerprint: str = ""
    """Of the training shards' document lengths: a resumed run must find the same."""

    best_loss: float | None = None
    """Lowest validation loss of a saved iteration, mean over the validation sets."""
    best_iteration: int | None = None
    """Iteration of best_loss."""
    recent_losses: tuple[float, ...] = ()
    """Of iterations that were finite, applied or not, for --skip_spike_sigma."""
    recent_grad_norms: tuple[float, ...] = ()

    @property
    def applied_iterations(self) -> int:
        return self.iteration - self.skipped_iterations

    def advance(self, samples: int, applied: bool) -> TrainState:
        return replace(
            self,
            iteration=self.iteration + 1,
            consumed_train_samples=self.consumed_train_samples + samples,
            skipped_iterations=self.skipped_iterations + (not applied),
        )

    def evaluated(self, loss: float) -> TrainState:
        """With the validation loss of this iteration, which is about to be saved, taken into account."""
        if not math.isfinite(loss) or (self.best_loss is not None and loss >= self.best_loss):
            return self
        return replace(self, best_loss=loss, best_iteration=self.iteration)

    def remember(self, loss: float, grad_norm: float, window: int) -> TrainState:
        losses, norms = (*self.recent_losses, loss), (*self.recent_grad_norms, grad_norm)
        return replace(self, recent_losses=losses[-window:], recent_grad_norms=norms[-window:])

    def save(self, folder: Path) -> None:
        (folder / TRAIN_STATE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TrainState:
        try:
            return from_mapping(cls, read_json(folder / TRAIN_STATE), str(folder / TRAIN_STATE))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder / TRAIN_STATE}: cannot be read ({error}); load with --finetune to start anew"
            ) from error


def _layout_name(layout: ParallelLayout) -> str:
    kind = "cuda" if uses_cuda() else "cpu"
    return f"tp{layout.tp}-pp{layout.pp}-vpp{layout.vpp}-dp{layout.dp}-{kind}"


def save_rng(folder: Path, layout: ParallelLayout) -> None:
    """All ranks call it; rank 0 writes one file with every rank's streams."""
    own = {"torch": torch.get_rng_state()}
    if uses_cuda():
        own["cuda"] = torch.cuda.get_rng_state()
    own |= {
        f"tracker.{name}": state.clone() for name, state in tensor_parallel.get_cuda_rng_tracker().get_states().items()
    }
    everyone: list[dict[str, torch.Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    if dist.get_rank() == 0:
        tensors = {
            f"{rank}/{name}": state for rank, states in enumerate(everyone) for name, state in (states or {}).items()
        }
        # Not save_file: its files can be read by nobody else.
        (folder / RNG_FILE).write_bytes(save(tensors, metadata={"layout": _layout_name(layout)}))


def load_rng(folder: Path, layout: ParallelLayout) -> bool:
    """Restores this rank's streams; False when the checkpoint was written in another layout, whose streams have no
    meaning here. Raises CheckpointError for a damaged file.
    """
    path = folder / RNG_FILE
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("layout") != _layout_name(layout):
                return False
        _set_streams(load_file(path), f"{dist.get_rank()}/")
    except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: not the random streams of a run ({error}); load with --no_load_rng") from error
    return True


def _set_streams(everyone: dict[str, torch.Tensor], prefix: str) -> None:
    states = {key[len(prefix) :]: value for key, value in everyone.items() if key.startswith(prefix)}
    torch.set_rng_state(states["torch"])
    if uses_cuda():
        torch.cuda.set_rng_state(states["cuda"])
    tracker = {key.removeprefix("tracker."): value for key, value in states.items() if key.startswith("tracker.")}
    tensor_parallel.get_cuda_rng_tracker().set_states(tracker)
