"""Find the checkpoint and the architecture that a run starts from.

A run starts from its own newest sound checkpoint in --save, else from the checkpoint of --load, else from random
weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_train.checkpoint.config_diff import model_differences
from megatron_train.checkpoint.folder import (
    MODEL_CONFIG,
    TRAIN_CONFIG,
    TRAIN_STATE,
    CheckpointError,
    check_folder,
    find_checkpoint,
    folder_name,
    list_iterations,
)
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import Checkpoint, TrainConfig
from megatron_train.report.console import warn
from pretokenizer.config.paths import find_config
from pretokenizer.config.yaml_config import load_yaml


@dataclass(frozen=True)
class Start:
    """The published checkpoint that a run starts from.

    With `resume`, the run also takes optimizer state, data position and random states from it; otherwise only the
    weights.
    """

    folder: Path
    resume: bool

    def state(self) -> TrainState:
        """Return the progress that the checkpoint records if the run resumes, and zero progress for a new run.

        Raises CheckpointError when train_state.json cannot be read.
        """
        return TrainState.load(self.folder) if self.resume else TrainState()

    def settings(self) -> dict[str, Any]:
        """Return the settings, name -> value, of the training run that is resumed; an empty dict for a new run."""
        path = self.folder / TRAIN_CONFIG
        return load_yaml(path) if self.resume and path.is_file() else {}


def find_start(config: TrainConfig) -> Start | None:
    """Return the preferred undamaged checkpoint to start from, or None when the run starts from random weights.

    All ranks call this function and get the same result. A warning names each damaged checkpoint. Raises
    CheckpointError when every checkpoint is damaged, and in the cases of `candidates`.
    """
    refused: list[str] = []
    for start in _as_rank_0_sees(config):
        problem = _problem_of(start.folder)
        if problem is None:
            if refused:
                warn(f"going back to {start.folder}, the newest sound checkpoint")
            return start
        warn(problem)
        refused.append(problem)
    if refused:
        raise CheckpointError(f"no sound checkpoint to start from; {refused[0]}")
    return None


def _as_rank_0_sees(config: TrainConfig) -> list[Start]:
    """Return on every rank the list of checkpoints that rank 0 may start from.

    Hosts of a shared disk may see a new folder at different times, so only rank 0 looks. An error of rank 0 is raised
    on every rank.
    """
    answer: list[list[Start] | Exception] = [[]]
    if dist.get_rank() == 0:
        try:
            answer = [list(candidates(config))]
        except Exception as error:
            answer = [error]
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def candidates(config: TrainConfig) -> Iterator[Start]:
    """Yield the checkpoints that the run may start from, the preferred one first.

    They are the checkpoints in --save, the newest first. If there are none, or if --load_iters goes back to one of
    them, it is the checkpoint of --load, and older ones of the same run follow unless flags name one checkpoint. Raises
    CheckpointError when --load names a folder without a checkpoint, and when a flag asks for another start than the run
    that --save holds.
    """
    settings = config.checkpoint
    own = Path(settings.save) if settings.save else None
    if own and list_iterations(own) and not _goes_back(config, own):
        _refuse_flags_without_effect(settings, own)
        yield from _newest_first(own)
    elif settings.load:
        folder = find_checkpoint(settings.load, settings.load_iters)
        if settings.finetune or not (folder / TRAIN_STATE).is_file():
            yield Start(folder, resume=False)
        elif settings.load_iters is not None or folder == Path(settings.load):
            yield Start(folder, resume=True)
        else:
            yield from _newest_first(Path(settings.load))


def _refuse_flags_without_effect(settings: Checkpoint, own: Path) -> None:
    """Raise CheckpointError when --save holds a run, and --load, --finetune or --load_iters ask for another start.

    The run in --save takes precedence, so such flags would have no effect. They are accepted if an earlier launch of
    the run had the same ones, because this launch then repeats the same command.
    """
    given = _start_flags(vars(settings), own)
    if given == (None, False, None):
        return
    folders = [own / folder_name(iteration) for iteration in list_iterations(own)]
    stored = [load_yaml(folder / TRAIN_CONFIG) for folder in folders if (folder / TRAIN_CONFIG).is_file()]
    if given not in [_start_flags(each, own) for each in stored]:
        words = {
            f"--load {settings.load}": given[0],
            "--finetune": settings.finetune,
            f"--load_iters {settings.load_iters}": settings.load_iters is not None,
        }
        raise CheckpointError(
            f"--save {own} holds another run, at {folders[-1].name}, which takes precedence: "
            f"{' '.join(word for word, is_given in words.items() if is_given)} would have no effect. Give another "
            "--save to start a new run, or leave these flags out to resume the run"
        )


def _start_flags(settings: Mapping[str, Any], own: Path) -> tuple[Path | None, bool, int | None]:
    """Return the flags that decide where a launch starts: (--load, --finetune, --load_iters).

    A --load that is the launch's own --save folder counts as None.
    """
    load = Path(settings["load"]).resolve() if settings.get("load") else None
    return None if load == own.resolve() else load, bool(settings.get("finetune")), settings.get("load_iters")


def _goes_back(config: TrainConfig, own: Path) -> bool:
    """Return whether this launch is the first to go back to the iteration --load_iters of its own --save folder.

    Later launches with the same flags resume from the checkpoints that the first one writes.
    """
    settings = config.checkpoint
    if settings.load_iters is None or settings.load is None or not own.samefile(settings.load):
        return False
    try:
        return bool(load_yaml(find_checkpoint(own) / TRAIN_CONFIG).get("load_iters") != settings.load_iters)
    except (CheckpointError, OSError, ValueError):
        return True


def _newest_first(root: Path) -> Iterator[Start]:
    """Yield the checkpoint that the tracker file in `root` names, then the older ones from newest to oldest.

    If the named checkpoint is missing, warn and yield all others. Raises CheckpointError when `root` has no checkpoint.
    """
    iterations = list_iterations(root)
    try:
        named = find_checkpoint(root)
        yield Start(named, resume=True)
        iterations = [iteration for iteration in iterations if folder_name(iteration) < named.name]
    except CheckpointError as error:
        if not iterations:
            raise
        warn(str(error))
    for iteration in reversed(iterations):
        yield Start(root / folder_name(iteration), resume=True)


def _problem_of(folder: Path) -> str | None:
    """Check the checksums and pickles of a checkpoint; the ranks share its files. All ranks call this function.

    Returns the message of the first problem on any rank, or None for a sound checkpoint.
    """
    problem: str | None = None
    try:
        check_folder(folder, dist.get_rank(), dist.get_world_size())
    except (CheckpointError, OSError) as error:
        problem = str(error)
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next((each for each in problems if each), None)


def load_model_config(config: TrainConfig, start: Path | None) -> ModelConfig:
    """Return the architecture of the checkpoint `start`, or of --model when `start` is None.

    The setting `max_position_embeddings` may raise the architecture's value. Raises CheckpointError when --model
    differs from the checkpoint without --use_checkpoint_args, and when there is neither a checkpoint nor --model.
    """
    positions = config.model.max_position_embeddings
    named = (
        ModelConfig.load(find_config("model", config.model.model)).with_positions(positions)
        if config.model.model
        else None
    )
    if start is None:
        if named is None:
            raise CheckpointError(
                "no architecture: give --load CHECKPOINT, or --model configs/model/NAME.yaml for random weights"
            )
        return named
    stored = ModelConfig.load(start / MODEL_CONFIG).with_positions(positions)
    different = [] if config.checkpoint.use_checkpoint_args else model_differences(config, start)
    if different:
        rows = "; ".join(
            f"{row.setting}: {row.given} in {config.model.model}, {row.checkpoint} in {start}" for row in different
        )
        raise CheckpointError(
            f"--model and the checkpoint disagree: {rows}; leave --model out, or give --use_checkpoint_args"
        )
    return stored
