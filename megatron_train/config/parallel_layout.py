"""Which rank holds which part of the model: pure arithmetic over arguments. SHARED and torch-free.

Ranks are laid out as megatron-core does by default ("tp-cp-ep-dp-pp"): tensor-parallel ranks are neighbours, then
data-parallel ones, and pipeline stages are furthest apart:

    >>> ParallelLayout(world_size=8, tp=2, pp=2).coordinates(5)
    Coordinates(tp=1, dp=0, pp=1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from megatron_train.config.settings import Batch, Parallel


class Coordinates(NamedTuple):
    """Tensor-, data- and pipeline-parallel rank of one process, each counted from 0."""

    tp: int
    dp: int
    pp: int


@dataclass(frozen=True)
class ParallelLayout:
    """Number of ranks in each parallel dimension. `vpp` is the number of model chunks per pipeline stage."""

    world_size: int = 1
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1

    @classmethod
    def planned(cls, parallel: Parallel, world_size: int) -> ParallelLayout:
        """Return the layout that the settings in `parallel` ask for on `world_size` ranks."""
        return cls(
            world_size=world_size,
            tp=parallel.tensor_model_parallel_size,
            pp=parallel.pipeline_model_parallel_size,
            vpp=parallel.virtual_pipeline_model_parallel_size or 1,
        )

    @property
    def dp(self) -> int:
        return self.world_size // (self.tp * self.pp * self.cp)

    def global_batch_size(self, batch: Batch) -> int:
        """Return the number of samples per iteration, by default one micro-batch per data-parallel rank."""
        return batch.global_batch_size or batch.micro_batch_size * self.dp

    def num_microbatches(self, batch: Batch) -> int:
        """Return the number of micro-batches that each rank runs in an iteration."""
        return self.global_batch_size(batch) // (batch.micro_batch_size * self.dp)

    def problems(self) -> list[str]:
        """Return a message for everything that makes this layout impossible, with its remedy."""
        found = []
        for name, size in (
            ("tensor", self.tp),
            ("pipeline", self.pp),
            ("context", self.cp),
            ("virtual pipeline", self.vpp),
        ):
            if size < 1:
                found.append(f"{name} parallel size is {size}; it must be at least 1")
        model = self.tp * self.pp * self.cp
        if not found and self.world_size % model:
            found.append(
                f"world size {self.world_size} is not a multiple of tensor_model_parallel_size {self.tp} x "
                f"pipeline_model_parallel_size {self.pp}"
                + (f" x context_parallel_size {self.cp}" if self.cp > 1 else "")
                + f" = {model}; launch with --nproc_per_node x nodes = {model}, {2 * model}, ..."
            )
        if self.vpp > 1 and self.pp < 2:
            found.append("virtual_pipeline_model_parallel_size needs pipeline_model_parallel_size of at least 2")
        return found

    def coordinates(self, rank: int) -> Coordinates:
        """Return the position (tp, dp, pp) of `rank`. Context-parallel ranks count as data-parallel ranks."""
        tp, rest = rank % self.tp, rank // self.tp
        data_ranks = self.dp * self.cp
        return Coordinates(tp=tp, dp=rest % data_ranks, pp=rest // data_ranks)

    def layers_of_stage(self, num_layers: int, pp_rank: int, chunk: int = 0) -> range:
        """Return the numbers of the layers, from 0, in model chunk `chunk` of pipeline stage `pp_rank`."""
        per_chunk = num_layers // (self.pp * self.vpp)
        start = (chunk * self.pp + pp_rank) * per_chunk
        return range(start, start + per_chunk)
