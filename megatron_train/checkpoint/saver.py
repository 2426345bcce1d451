"""Save checkpoints in the training loop, or with --async_save in a thread beside it.

    with CheckpointSaver(config) as saver:
        saver.save(run.contents())                # waits for the previous save; at most one is in progress
        saver.check()                             # in every iteration: raises an error of the thread

Leaving the block always waits for the save in progress. The tensors are copied to the CPU before the thread starts.
The ranks exchange messages about the files in a process group of their own. The messages therefore cannot mix with
the collectives of training, and a slow disk does not look like a rank that hangs.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from megatron_train.checkpoint.folder import CheckpointError, folder_name
from megatron_train.checkpoint.save_load import Contents, save_checkpoint, stage_checkpoint
from megatron_train.checkpoint.train_state import TrainState
from megatron_train.checkpoint.write import TensorPlan, write_and_publish
from megatron_train.config.settings import TrainConfig
from megatron_train.report.console import say, warn

SLOWEST_WRITE = datetime.timedelta(hours=2)
"""The longest time that a rank waits for another rank to write its files. A rank that dies is noticed at once."""


def _group_for_files(timeout_minutes: float) -> Any:
    """Return a gloo process group of all ranks for their messages about checkpoint files.

    To connect, the ranks have `timeout_minutes`; later messages may take SLOWEST_WRITE. Raises CheckpointError when
    gloo cannot connect the hosts, as on clusters with several networks.
    """
    try:
        group = dist.new_group(backend="gloo", timeout=datetime.timedelta(minutes=timeout_minutes))
        dist.all_gather_object([None] * dist.get_world_size(group), None, group=group)
    except RuntimeError as error:
        raise CheckpointError(
            f"the ranks cannot connect over gloo, which saves need ({error}); set GLOO_SOCKET_IFNAME to the network "
            "interface that connects the machines"
        ) from error
    distributed_c10d._set_pg_timeout(SLOWEST_WRITE, group)
    return group


class CheckpointSaver:
    """Saves the checkpoints of one run. All ranks call every method in the same iterations."""

    def __init__(self, config: TrainConfig) -> None:
        """Connect the ranks for the saves of a run. Without --save, the saver saves nothing."""
        self.config = config
        self.root = Path(config.checkpoint.save or "")
        self._thread: Thread | None = None
        self._in_progress = 0
        self._problem: BaseException | None = None
        self._group = _group_for_files(config.parallel.distributed_timeout_minutes) if config.checkpoint.save else None

    def save(self, contents: Contents) -> None:
        """Save a checkpoint. With --async_save, only copy its tensors, and let a thread write them.

        Do nothing without --save. Raises CheckpointError when this save or the previous one failed.
        """
        if not self.config.checkpoint.save:
            return
        if not self.config.checkpoint.async_save:
            save_checkpoint(contents, self._group)
            return
        self.wait()
        plan = stage_checkpoint(contents, keep_copies=True)
        self._in_progress = contents.state.iteration
        name = f"save {folder_name(self._in_progress)}"
        self._thread = Thread(target=self._write, args=(plan, contents.state), name=name)
        self._thread.start()

    def _write(self, plan: TensorPlan, state: TrainState) -> None:
        """Write and publish the checkpoint in the thread. An error is kept until `wait` raises it."""
        limit = self.config.checkpoint.save_total_limit
        try:
            write_and_publish(plan, self.root, state.iteration, state.best_iteration, limit, self._group)
        except BaseException as problem:  # the training loop raises it
            self._problem = problem

    def check(self) -> None:
        """Raise CheckpointError if the thread's save has failed. Do not wait for a save that is still in progress."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait until the save in progress, if any, is complete. Raises CheckpointError when it failed."""
        if self._thread is None:
            return
        started = time.monotonic()
        self._thread.join()
        self._thread = None
        seconds, folder = time.monotonic() - started, self.root / folder_name(self._in_progress)
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise (
                problem
                if isinstance(problem, CheckpointError)
                else CheckpointError(f"{folder}: could not be saved: {problem}")
            ) from problem
        say(f"saved {folder}" + (f" (waited {seconds:.1f} s for it)" if seconds > 1 else ""))

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except CheckpointError as problem:
            if error is None:
                raise
            warn(str(problem))
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None
