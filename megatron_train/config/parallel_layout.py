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
    """Number of ranks in each parallel dimension: tensor (`tp`), pipeline (`pp`) and context (`cp`).

    The data-parallel size `dp` follows from `world_size`, the number of all ranks. `vpp` is the number of model chunks
    per pipeline stage.
    """

    world_size: int = 1
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    first_layers: int | None = None
    """Layers of the first pipeline stage; None = an equal share of the layers that are not assigned to a stage."""
    last_layers: int | None = None
    """Layers of the last pipeline stage; None = an equal share of the layers that are not assigned to a stage."""

    @classmethod
    def planned(cls, parallel: Parallel, world_size: int) -> ParallelLayout:
        """Return the layout that the settings in `parallel` ask for on `world_size` ranks.

        The layout may be impossible, which `problems` reports. `cp` is always 1, because the trainer has no context
        parallelism.
        """
        return cls(
            world_size=world_size,
            tp=parallel.tensor_model_parallel_size,
            pp=parallel.pipeline_model_parallel_size,
            vpp=parallel.virtual_pipeline_model_parallel_size or 1,
            first_layers=parallel.decoder_first_pipeline_num_layers,
            last_layers=parallel.decoder_last_pipeline_num_layers,
        )

    @property
    def dp(self) -> int:
        """Number of data-parallel ranks, which is the number of copies of the model."""
        return self.world_size // (self.tp * self.pp * self.cp)

    def global_batch_size(self, batch: Batch) -> int:
        """Return the number of samples per iteration, by default one micro-batch per data-parallel rank."""
        return batch.global_batch_size or batch.micro_batch_size * self.dp

    def num_microbatches(self, batch: Batch) -> int:
        """Return the number of micro-batches that each rank runs in an iteration."""
        return self.global_batch_size(batch) // (batch.micro_batch_size * self.dp)

    def problems(self) -> list[str]:
        """Return a message, with its remedy, for everything that makes this layout impossible; [] if it is possible."""
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
        for name, layers in (("first", self.first_layers), ("last", self.last_layers)):
            setting = f"decoder_{name}_pipeline_num_layers"
            if layers is not None and layers < 1:
                found.append(f"{setting} is {layers}; it must be at least 1")
            if layers is not None and self.pp == 1:
                found.append(f"{setting} needs pipeline_model_parallel_size of at least 2")
        return found

    def split_problems(self, num_layers: int) -> list[str]:
        """Return [] if `num_layers` layers can be split over the stages and chunks, else a message with its remedy.

        Call it for a layout without problems.
        """
        given = {"first": self.first_layers, "last": self.last_layers}
        named = [f"decoder_{name}_pipeline_num_layers {n}" for name, n in given.items() if n is not None]
        others, left = self._other_stages(num_layers)
        if not named and num_layers % (self.pp * self.vpp):
            return [
                f"num_layers {num_layers} is not a multiple of pipeline stages {self.pp} x chunks {self.vpp}; "
                "--decoder_first_pipeline_num_layers and --decoder_last_pipeline_num_layers give the first and the "
                "last stage other numbers of layers"
            ]
        if left < others or (left % others if others else left):
            return [
                f"{' and '.join(named)} leave {left} of the {num_layers} layers to the other {others} pipeline stages; "
                f"leave {f'a positive multiple of {others}' if others else 'none'}"
            ]
        layers = self.stage_layers(num_layers)
        if any(count % self.vpp for count in layers):
            return [
                f"virtual_pipeline_model_parallel_size {self.vpp} does not divide the layers of every stage: "
                f"{', '.join(map(str, layers))}"
            ]
        return []

    def _other_stages(self, num_layers: int) -> tuple[int, int]:
        """Return (number of stages whose number of layers is not given, number of layers that these stages share)."""
        given = [layers for layers in (self.first_layers, self.last_layers) if layers is not None]
        return self.pp - len(given), num_layers - sum(given)

    def stage_layers(self, num_layers: int) -> list[int]:
        """Return the number of layers of each pipeline stage, over all of its chunks.

        >>> ParallelLayout(world_size=4, pp=4, first_layers=7, last_layers=5).stage_layers(32)
        [7, 10, 10, 5]
        """
        others, left = self._other_stages(num_layers)
        layers = [left // others if others else 0] * self.pp
        if self.first_layers is not None:
            layers[0] = self.first_layers
        if self.last_layers is not None:
            layers[-1] = self.last_layers
        return layers

    def coordinates(self, rank: int) -> Coordinates:
        """Return the position (tp, dp, pp) of `rank`. Context-parallel ranks count as data-parallel ranks."""
        tp, rest = rank % self.tp, rank // self.tp
        data_ranks = self.dp * self.cp
        return Coordinates(tp=tp, dp=rest % data_ranks, pp=rest // data_ranks)

    def describe_split(self, num_layers: int) -> str:
        """Return the layers of each stage as text: one number if all stages have it, else `first|between|last`.

        With two stages, the text is `first|last`.

        >>> ParallelLayout(world_size=4, pp=4, first_layers=7, last_layers=5).describe_split(32)
        '7|10|5'
        """
        layers = self.stage_layers(num_layers)
        parts = layers[:1] if len(set(layers)) == 1 else [layers[0], *layers[1:-1][:1], layers[-1]]
        return "|".join(map(str, parts))

    def layers_of_stage(self, num_layers: int, pp_rank: int, chunk: int = 0) -> range:
        """Return the numbers of the layers, from 0, in model chunk `chunk` of pipeline stage `pp_rank`."""
        per_chunk = [layers // self.vpp for layers in self.stage_layers(num_layers)]
        start = chunk * sum(per_chunk) + sum(per_chunk[:pp_rank])
        return range(start, start + per_chunk[pp_rank])
