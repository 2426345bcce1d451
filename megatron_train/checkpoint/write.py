"""Write the tensors of a checkpoint and publish it: every rank writes its own files, then rank 0 publishes the folder.

    plan = plan_tensors(state_dict, staging, keep_copies, connect)      # in the training loop; all ranks take part
    write_and_publish(plan, root, iteration, ..., group)           # there, or in a thread with its own `group`

The files are megatron-core's. The same state gives the same bytes: the files hold no time, path or random number.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from queue import Queue
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
    CheckpointError,
    folder_name,
    publish_checkpoint,
    retain_checkpoints,
    staging_folder,
)
from megatron_train.checkpoint.piece_exchange import PieceExchange
from megatron_train.report.console import warn
from pretokenizer.files.checksums import sha256_file
from pretokenizer.files.publish import set_aside


@dataclass(frozen=True)
class TensorFile:
    """A file to write: its path, its name in the folder, and each item with its data, first bytes and then tensors."""

    path: Path
    name: str
    blobs: list[tuple[Any, Any]]
    tensors: list[tuple[Any, torch.Tensor]]


@dataclass(frozen=True)
class TensorPlan:
    """The tensor files that this rank writes and, on rank 0, the index of the files of all ranks."""

    files: list[TensorFile]
    """The files. A meta tensor in them stands for one of the optimizer's, whose data `exchange` brings."""
    exchange: PieceExchange | None
    """Brings the data of the meta tensors in the order of `_places_of_meta`; None when no rank needs any."""
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
    state_dict: dict[str, Any], staging: Path, keep_copies: bool, connect: Callable[..., PieceExchange] | None
) -> TensorPlan:
    """Assign every tensor to the rank that writes it, and return this rank's plan. All ranks call this function.

    `connect(wanted, group)` returns the exchange that brings the data of the meta tensors in `state_dict`; None when
    there are none. With `keep_copies`, the plan holds all data and shares no memory with the run, so that training may
    continue. Without it, the optimizer's tensors are fetched while the files are written. Rank 0 writes common.pt,
    everything but the tensors, into `staging`.
    """
    strategy = _PlannedOnly("torch_dist", 1)
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    tensors, common = save_preprocess(state_dict)
    if dist.get_rank() == 0:
        torch.save(common, staging / COMMON_STATE_FNAME)
    FullyParallelSaveStrategyWrapper(strategy, group).apply_saving_parallelization(tensors)
    strategy.plan(tensors, staging)
    writer, metadata = strategy.planned
    files = [
        TensorFile(Path(path), name, blobs, [(item, _on_cpu(tensor, keep_copies)) for item, tensor in items])
        for path, name, (blobs, items) in writer.write_buckets or []
    ]
    writer.write_buckets = None
    exchange = None
    if connect is not None:
        exchange = connect([files[file].tensors[index][1] for file, index in _places_of_meta(files)], group)
        if keep_copies:
            _receive_all(files, exchange)
            exchange = None
    return TensorPlan(files, exchange, writer, metadata)


def _places_of_meta(files: list[TensorFile]) -> list[tuple[int, int]]:
    """Return the place of each meta tensor: the number of its file, and its number in the file.

    They are in the order in which their data is brought, which takes one from each file in turn.
    """
    places = [
        [(number, index) for index, (_, tensor) in enumerate(file.tensors) if tensor.is_meta]
        for number, file in enumerate(files)
    ]
    return [place for turn in zip_longest(*places) for place in turn if place is not None]


def _receive_all(files: list[TensorFile], exchange: PieceExchange) -> None:
    """Replace each meta tensor of `files` by its data."""
    places = _places_of_meta(files)
    for number in range(exchange.rounds):
        tensor = exchange.receive(number)
        if tensor is not None:
            file, index = places[number]
            item, _ = files[file].tensors[index]
            files[file].tensors[index] = (item, tensor)


def _on_cpu(tensor: torch.Tensor, keep_copy: bool) -> torch.Tensor:
    """Return the tensor on the CPU, or a meta tensor as it is.

    With `keep_copy`, the result never shares memory with `tensor`.
    """
    if tensor.is_meta:
        return tensor
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
    dist.gather_object(_write_own(plan, group), everyone if first else None, dst=0, group=group)
    verdict = [_publish(plan, everyone, root, iteration, best, limit) if first else None]
    dist.broadcast_object_list(verdict, src=0, group=group)
    if verdict[0]:
        raise CheckpointError(f"{root / folder_name(iteration)}: could not be saved: {verdict[0]}")


def _write_own(plan: TensorPlan, group: Any) -> Written:
    """Write this rank's files in parallel, and return their checksums, or the first file's error as `problem`.

    All ranks call this function, because they exchange tensors while they write.
    """
    queues: list[Queue[torch.Tensor | None]] = [Queue() for _ in plan.files]
    write = partial(_write_file, plan.writer.transforms)
    with ThreadPoolExecutor(max(1, len(plan.files))) as pool:
        pending = [pool.submit(write, file, queue) for file, queue in zip(plan.files, queues, strict=True)]
        try:
            _hand_out(plan, queues, group)
        finally:
            for queue in queues:
                queue.put(None)
    written = Written()
    try:
        for file, outcome in zip(plan.files, pending, strict=True):
            results, written.digests[file.path] = outcome.result()
            written.results.extend(results)
    except Exception as error:  # the other ranks wait for this report, whatever the error is
        return Written(problem=f"{type(error).__name__}: {error}{_space_left(Path(plan.writer.path))}")
    return written


def _hand_out(plan: TensorPlan, queues: list[Queue[torch.Tensor | None]], group: Any) -> None:
    """Put the data of each meta tensor into the queue of its file when the file's previous tensor is written.

    So a rank holds one tensor for each of its files. Before every round, the ranks wait for one another in `group`,
    whose timeout is long. A slow disk therefore does not exceed the timeout of the group that brings the data.
    """
    if plan.exchange is None:
        return
    places = _places_of_meta(plan.files)
    rounds: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(rounds, plan.exchange.rounds, group=group)
    for number in range(max(rounds)):
        own = number < len(places)
        queue = queues[places[number][0]] if own else Queue()  # without a tensor of its own, a rank receives None
        queue.join()
        dist.barrier(group=group)
        queue.put(plan.exchange.receive(number))


def _space_left(folder: Path) -> str:
    """Return the free space on the disk of `folder` as the end of an error message; empty when it is not known.

    torch's own errors do not mention a full disk.
    """
    try:
        return f" ({shutil.disk_usage(folder).free:,} bytes left on the device)"
    except OSError:
        return ""


def _write_file(transforms: Any, file: TensorFile, queue: Queue[torch.Tensor | None]) -> tuple[list[WriteResult], str]:
    """Write one file and flush it to disk. Return a result for each of its items, and the file's SHA-256 digest.

    The data of its meta tensors comes through `queue`, which ends with None.
    """
    write = partial(_write_item, transforms, serialization_format=SerializationFormat.TORCH_SAVE)
    arriving = _drain(queue)
    try:
        with file.path.open("wb") as stream:
            results = [write(stream, blob, item, file.name) for item, blob in file.blobs]
            for item, tensor in file.tensors:
                results.append(write(stream, next(arriving) if tensor.is_meta else tensor, item, file.name))
            stream.flush()
            os.fsync(stream.fileno())
        return results, sha256_file(file.path)
    finally:
        for _ in arriving:  # after an error: the other ranks send the rest all the same
            pass


def _drain(queue: Queue[torch.Tensor | None]) -> Iterator[torch.Tensor]:
    """Yield the tensors of a queue until it holds None, and tell the queue when each one is no longer needed."""
    while (tensor := queue.get()) is not None:
        yield tensor
        del tensor
        queue.task_done()


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
        retain_checkpoints(root, iteration, limit, best)
    except OSError as error:  # the checkpoint is complete, and the next save tries again
        warn(f"{error.filename or root}: an old checkpoint could not be removed ({error.strerror or error})")
    return None


def _write_index(plan: TensorPlan, everyone: list[Written], staging: Path) -> None:
    """Write the index of all ranks' tensor files, `.metadata`, and the file metadata.json into the staging folder."""
    plan.writer.storage_meta = StorageMeta  # megatron-core's own holds the folder's path and a random number
    plan.writer.finish(plan.metadata, [each.results for each in everyone])
    save_config(CheckpointingConfig("torch_dist", 1), str(staging))
