"""Write the tensors of a checkpoint and publish it: every rank writes its own files, then rank 0 publishes the folder.

    plan = plan_tensors(state_dict, staging, keep_copies=True)     # in the training loop; all ranks take part
    write_and_publish(plan, root, iteration, ..., group)           # there, or in a thread with its own `group`

The files are megatron-core's. The same state gives the same bytes: the files hold no time, path or random number.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.filesystem import SerializationFormat, _write_item
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.storage import WriteResult

from megatron_train.checkpoint.folder import (
    BEST,
    CheckpointError,
    folder_name,
    list_iterations,
    publish_checkpoint,
    staging_folder,
)
from megatron_train.report.console import warn
from pretokenizer.files.checksums import sha256_file
from pretokenizer.files.publish import set_aside, write_text_atomic

Bucket = tuple[str, str, tuple[list[Any], list[Any]]]
"""One file to write: (path, name within the folder, (items with their bytes, items with their CPU tensors))."""


@dataclass(frozen=True)
class TensorPlan:
    """The tensor files that this rank writes and, on rank 0, the index of the files of all ranks."""

    buckets: list[Bucket]
    writer: FileSystemWriterAsync
    metadata: Metadata | None


@dataclass(frozen=True)
class Written:
    """A rank's report about writing its tensor files: a result per tensor and a digest per file, or the problem."""

    results: list[WriteResult] = field(default_factory=list)
    digests: dict[Path, str] = field(default_factory=dict)
    problem: str | None = None


class _PlannedOnly(TorchDistSaveShardedStrategy):
    """megatron-core's strategy for saving, changed to keep its writer and index in `planned` and to write no files."""

    planned: tuple[FileSystemWriterAsync, Metadata | None]

    def plan(self, tensors: dict[str, Any], staging: Path) -> None:
        """Plan the save of sharded tensors into the folder `staging`, and set `planned`. All ranks call this method."""
        # megatron-core 0.19 has a second writer, of the package nvidia-resiliency-ext. 0.16 has only its own.
        has_two = "async_strategy" in inspect.signature(self.async_save).parameters
        self.async_save(tensors, staging, **({"async_strategy": "mcore"} if has_two else {}))

    def _get_save_and_finalize_callbacks(self, writer: FileSystemWriterAsync, result: Any, *strategy: Any) -> Any:
        self.planned = (writer, result[1])
        return super()._get_save_and_finalize_callbacks(writer, result, *strategy)


def plan_tensors(
    state_dict: dict[str, Any], staging: Path, keep_copies: bool, fill: Callable[..., list[torch.Tensor]]
) -> TensorPlan:
    """Assign every tensor to the rank that writes it, move this rank's tensors to the CPU, and return its plan.

    All ranks call this function. `fill` puts data into the meta tensors of `state_dict` that this rank writes, and
    returns the tensors that it allocates. With `keep_copies`, the plan shares no memory with the run, so that training
    may continue. Rank 0 writes common.pt, everything but the tensors, into `staging`.
    """
    strategy = _PlannedOnly("torch_dist", 1)
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    tensors, common = save_preprocess(state_dict)
    if dist.get_rank() == 0:
        torch.save(common, staging / COMMON_STATE_FNAME)
    FullyParallelSaveStrategyWrapper(strategy, group).apply_saving_parallelization(tensors)
    new = {tensor.untyped_storage().data_ptr() for tensor in fill(sharded_state_dict=tensors, group=group)}
    strategy.plan(tensors, staging)
    writer, metadata = strategy.planned

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return _on_cpu(tensor, keep_copies and tensor.untyped_storage().data_ptr() not in new)

    buckets = [
        (path, name, (blobs, [(item, moved(tensor)) for item, tensor in tensors]))
        for path, name, (blobs, tensors) in writer.write_buckets or []
    ]
    writer.write_buckets = None
    return TensorPlan(buckets, writer, metadata)


def _on_cpu(tensor: torch.Tensor, keep_copy: bool) -> torch.Tensor:
    """Return the tensor on the CPU. With `keep_copy`, the result never shares memory with `tensor`."""
    moved = tensor.to("cpu")
    return moved.clone() if keep_copy and moved is tensor else moved


def write_and_publish(
    plan: TensorPlan, root: Path, iteration: int, best: int | None, limit: int | None, group: Any = None
) -> None:
    """Write this rank's tensor files. Rank 0 then publishes the checkpoint iter_<iteration> and removes old ones.

    The last `limit` checkpoints (None: all) and the one of iteration `best` are kept. All ranks call this function. In
    a thread, nothing else may use the process group `group`. Raises CheckpointError on every rank when any rank failed;
    the staging folder is then removed, and older checkpoints are unchanged.
    """
    first = dist.get_rank() == 0
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(_write_own(plan), everyone if first else None, dst=0, group=group)
    verdict = [_publish(plan, everyone, root, iteration, best, limit) if first else None]
    dist.broadcast_object_list(verdict, src=0, group=group)
    if verdict[0]:
        raise CheckpointError(f"{root / folder_name(iteration)}: could not be saved: {verdict[0]}")


def _write_own(plan: TensorPlan) -> Written:
    """Write this rank's files in parallel, and return their checksums, or an error as `problem`. Never raises."""

    written, write = Written(), partial(_write_file, plan.writer.transforms)
    try:
        with ThreadPoolExecutor(max(1, len(plan.buckets))) as pool:
            for (path, _, _), (results, digest) in zip(plan.buckets, pool.map(write, plan.buckets), strict=True):
                written.results.extend(results)
                written.digests[Path(path)] = digest
    except Exception as error:  # the other ranks wait for this report, whatever the error is
        return Written(problem=f"{type(error).__name__}: {error}{_space_left(Path(plan.writer.path))}")
    return written


def _space_left(folder: Path) -> str:
    """Return the free space on the disk of `folder` as the end of an error message; empty when it is not known.

    torch's own errors do not mention a full disk.
    """
    try:
        return f" ({shutil.disk_usage(folder).free:,} bytes left on the device)"
    except OSError:
        return ""


def _write_file(transforms: Any, bucket: Bucket) -> tuple[list[WriteResult], str]:
    """Write one file and flush it to disk. Return a result for each of its items, and the file's SHA-256 digest."""
    path, name, (blobs, tensors) = bucket
    with Path(path).open("wb") as stream:
        results = [
            _write_item(transforms, stream, data, item, name, serialization_format=SerializationFormat.TORCH_SAVE)
            for item, data in [*blobs, *tensors]
        ]
        stream.flush()
        os.fsync(stream.fileno())
    return results, sha256_file(path)


def _publish(
    plan: TensorPlan, everyone: list[Written], root: Path, iteration: int, best: int | None, limit: int | None
) -> str | None:
    """Publish the checkpoint on rank 0 if no rank reports a problem, then remove old checkpoints.

    `everyone` holds the reports of all ranks. Returns None, or the message of the problem that kept the checkpoint from
    being published.
    """
    staging, replaced = staging_folder(root, iteration), None
    problem = next((f"rank {rank}: {each.problem}" for rank, each in enumerate(everyone) if each.problem), None)
    try:
        if problem is None:
            _write_index(plan, everyone, staging)
            replaced = set_aside(root / folder_name(iteration))
            publish_checkpoint(
                root, iteration, {path: digest for each in everyone for path, digest in each.digests.items()}
            )
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        shutil.rmtree(staging, ignore_errors=True)
        return problem
    try:
        if replaced:
            shutil.rmtree(replaced)
        _retain(root, iteration, limit, best)
    except OSError as error:  # the checkpoint is complete, and the next save tries again
        warn(f"{error.filename or root}: an old checkpoint could not be removed ({error.strerror or error})")
    return None


def _write_index(plan: TensorPlan, everyone: list[Written], staging: Path) -> None:
    """Write the index of all ranks' tensor files, `.metadata`, and the file metadata.json into the staging folder."""
    plan.writer.storage_meta = StorageMeta  # megatron-core's own holds the folder's path and a random number
    plan.writer.finish(plan.metadata, [each.results for each in everyone])
    save_config(CheckpointingConfig("torch_dist", 1), str(staging))


def _retain(root: Path, newest: int, limit: int | None, best: int | None) -> None:
    """Record `best` as the best iteration, and remove all checkpoints except the best and the last `limit` (None: all).

    Checkpoints after the iteration `newest` always stay. They date from before the run went back to an earlier
    iteration, and this run replaces them when it reaches them.
    """
    saved = [iteration for iteration in list_iterations(root) if iteration <= newest]
    if best in saved:
        write_text_atomic(root / BEST, f"{best}\n")
    for iteration in saved[: -limit if limit else 0]:
        if iteration != best:
            aside = set_aside(root / folder_name(iteration))  # a partly removed folder must not keep its final name
            shutil.rmtree(aside or root / folder_name(iteration))
