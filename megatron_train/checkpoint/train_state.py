"""The progress of a run and the random states of its ranks, stored as JSON and safetensors, without pickle."""

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
    """Progress of a run since it began, over all its launches. A sample is one row of the training order."""

    iteration: int = 0
    consumed_train_samples: int = 0
    skipped_iterations: int = 0
    """Iterations that did not update the weights: not finite, no target tokens, a spike, or listed in skip_iters."""
    data_fingerprint: str = ""
    """Fingerprint of the document lengths of the training shards. A resumed run warns when its own differs."""

    world_size: int | None = None
    """Number of ranks of the launch that wrote the state; None when it is not known."""

    best_loss: float | None = None
    """Lowest validation loss of a saved iteration, as the mean over the validation sets."""
    best_iteration: int | None = None
    """The saved iteration whose validation loss is best_loss."""
    recent_losses: tuple[float, ...] = ()
    """Losses of the latest iterations with finite loss and gradient norm, skipped or not, for --skip_spike_sigma."""
    recent_grad_norms: tuple[float, ...] = ()
    """Gradient norms of the same iterations as recent_losses."""

    @property
    def applied_iterations(self) -> int:
        """Number of iterations that updated the weights."""
        return self.iteration - self.skipped_iterations

    def advance(self, samples: int, applied: bool) -> TrainState:
        """Return the state after one more iteration of `samples` samples; `applied`: whether it updated the weights."""
        return replace(
            self,
            iteration=self.iteration + 1,
            consumed_train_samples=self.consumed_train_samples + samples,
            skipped_iterations=self.skipped_iterations + (not applied),
        )

    def evaluated(self, loss: float) -> TrainState:
        """Return the state with this iteration as the best one if its validation loss `loss` is the lowest so far.

        Call it only for an iteration that is about to be saved.
        """
        if not math.isfinite(loss) or (self.best_loss is not None and loss >= self.best_loss):
            return self
        return replace(self, best_loss=loss, best_iteration=self.iteration)

    def remember(self, loss: float, grad_norm: float, window: int) -> TrainState:
        """Return the state with `loss` and `grad_norm` added to the recent values; `window` of each are kept."""
        losses, norms = (*self.recent_losses, loss), (*self.recent_grad_norms, grad_norm)
        return replace(self, recent_losses=losses[-window:], recent_grad_norms=norms[-window:])

    def save(self, folder: Path) -> None:
        """Write the state to train_state.json in the checkpoint `folder`."""
        (folder / TRAIN_STATE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> TrainState:
        """Return the state in train_state.json of `folder`. Raises CheckpointError when it cannot be read."""
        try:
            return from_mapping(cls, read_json(folder / TRAIN_STATE), str(folder / TRAIN_STATE))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder / TRAIN_STATE}: cannot be read ({error}); --finetune loads the weights alone"
            ) from error


def _layout_name(layout: ParallelLayout) -> str:
    """Return the parallel layout and the kind of device as text, such as `tp2-pp1-vpp1-dp4-cuda`.

    Random states belong to stages, so they fit only the same split of the layers.
    """
    kind = "cuda" if uses_cuda() else "cpu"
    given = {"first": layout.first_layers, "last": layout.last_layers}
    uneven = "".join(f"-{name}{layers}" for name, layers in given.items() if layers is not None)
    return f"tp{layout.tp}-pp{layout.pp}-vpp{layout.vpp}-dp{layout.dp}{uneven}-{kind}"


def save_rng(folder: Path, layout: ParallelLayout) -> None:
    """Write the random states of all ranks into one file of the checkpoint `folder`. All ranks call this function."""
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
        # safetensors' save_file makes files that other users cannot read.
        (folder / RNG_FILE).write_bytes(save(tensors, metadata={"layout": _layout_name(layout)}))


def load_rng(folder: Path, layout: ParallelLayout) -> bool:
    """Restore this rank's random states from the checkpoint `folder`, and return whether that was possible.

    It is not possible when the checkpoint has no random states, or those of another layout or kind of device. Raises
    CheckpointError for a damaged file.
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
        raise CheckpointError(
            f"{path}: does not hold the random states of a run ({error}); load with --no_load_rng"
        ) from error
    return True


def _set_streams(everyone: dict[str, torch.Tensor], prefix: str) -> None:
    """Set this rank's random states to the tensors in `everyone` whose names begin with `prefix`."""
    states = {key[len(prefix) :]: value for key, value in everyone.items() if key.startswith(prefix)}
    torch.set_rng_state(states["torch"])
    if uses_cuda():
        torch.cuda.set_rng_state(states["cuda"])
    tracker = {key.removeprefix("tracker."): value for key, value in states.items() if key.startswith("tracker.")}
    tensor_parallel.get_cuda_rng_tracker().set_states(tracker)
