"""Turn samples into micro-batches on the device, for training and evaluation.

A batch is read into host memory first, which a thread may do ahead of time, and then copied to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron_train.config.settings import Data
from megatron_train.data.batch import Batch, Document, LossRule, packed_batch, padded_batch, padded_width
from megatron_train.data.loss_targets import Targets, target_arrays
from megatron_train.data.packed_row import PackedRow
from megatron_train.data.sft_dataset import Samples
from megatron_train.parallel.device import device_index, uses_cuda
from megatron_train.parallel.distributed import device
from pretokenizer.files.shard import ShardError

ARRAYS = ("tokens", "labels", "loss_mask", "position_ids")
"""Arrays of a Batch that are copied to the device, besides cu_seqlens."""
EMPTY: Document = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass
class DeviceBatch:
    """A Batch (batch.py) as tensors [b, s] on this rank's device. Packed rows have b = 1 and boundaries in `packed`."""

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    packed: PackedRow | None
    loss_weight: float
    num_tokens: int
    squared_lengths: int
    targets: Targets
    """The positions with loss, with their labels and weights."""
    loss_factor: float = 0.0
    """Factor by which the loss is multiplied. optim/loss.py computes it from the whole global batch."""


@dataclass(frozen=True)
class HostBatch:
    """A Batch, and the tensors in host memory that are copied to the device, by name."""

    batch: Batch
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, batch: Batch) -> HostBatch:
        """Return `batch` with its tensors, on CUDA in pinned memory, so that the host does not wait for the copies."""
        arrays: dict[str, Any] = {name: getattr(batch, name) for name in ARRAYS}
        if batch.cu_seqlens is not None:
            arrays["cu_seqlens"] = batch.cu_seqlens
        targets = target_arrays(batch.labels, batch.loss_mask)
        arrays |= zip(("target_positions", "target_labels", "target_weights"), targets, strict=True)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if uses_cuda():
            torch.cuda.set_device(device_index())  # a thread starts on device 0, and pinning would use memory there
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return cls(batch, tensors)


class BatchMaker:
    """Makes micro-batches from rows of samples, with the pad id and the loss rule of a run.

    Raises ShardError for a token id of `vocab_size` or above. Shards without a manifest may hold any id, and a
    tensor-parallel embedding would silently look up zeros.
    """

    def __init__(self, data: Data, pad_id: int, vocab_size: int | None = None) -> None:
        self.data, self.rule, self.pad_id, self.vocab_size = data, LossRule.of(data), pad_id, vocab_size

    def __call__(self, samples: Samples, rows: Sequence[int], end: int | None = None) -> DeviceBatch:
        """Return the micro-batch of `rows` on the device. The arguments are those of `read`."""
        return to_device(self.read(samples, rows, end))

    def read(self, samples: Samples, rows: Sequence[int], end: int | None = None) -> HostBatch:
        """Return the micro-batch of `rows`, which are indices into `samples`, in host memory.

        An index of `end` or above gives a row of padding without loss. With None, every row is read.
        """
        batch = self._batch([samples.row(row) if end is None or row < end else [] for row in rows])
        largest = int(max(batch.tokens.max(), batch.labels.max()))
        if self.vocab_size is not None and largest >= self.vocab_size:
            raise ShardError(
                f"{' '.join(samples.documents.prefixes)}: token id {largest}, but the model has {self.vocab_size} "
                "vocabulary rows; the data was pretokenized for another model"
            )
        return HostBatch.of(batch)

    def _batch(self, rows: list[list[Document]]) -> Batch:
        if self.data.packing:
            return packed_batch(rows, self.data.seq_length, self.pad_id, self.rule)
        single = [row[0] if row else EMPTY for row in rows]
        width = padded_width(single, self.data.seq_length, self.data.pad_to_multiple)
        return padded_batch(single, width, self.pad_id, self.rule)


def to_device(batch: HostBatch) -> DeviceBatch:
    """Return a copy of a batch on the device of this rank."""
    target = device()
    tensors = {name: tensor.to(target, non_blocking=True) for name, tensor in batch.tensors.items()}
    packed, source = None, batch.batch
    if source.cu_seqlens is not None:
        packed = PackedRow.of(tensors["cu_seqlens"], tensors["position_ids"], tuple(source.cu_seqlens.tolist()))
    return DeviceBatch(
        tokens=tensors["tokens"],
        labels=tensors["labels"],
        loss_mask=tensors["loss_mask"],
        position_ids=tensors["position_ids"],
        packed=packed,
        loss_weight=source.loss_weight,
        num_tokens=source.num_tokens,
        squared_lengths=source.squared_lengths,
        targets=Targets(tensors["target_positions"], tensors["target_labels"], tensors["target_weights"]),
    )
