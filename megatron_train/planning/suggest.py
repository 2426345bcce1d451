"""`plan --suggest`: rank the parallel layouts that fit on N GPUs by the estimated time of an iteration.

The estimate is for the slowest pipeline stage. It adds the time of computing (at `mfu` of the peak, with the extra
passes of recomputation), the fixed cost of each micro-batch (kernel launches, and a pass over the gradients),
tensor-parallel messages inside each layer, and messages between stages. It divides the sum by the share of the step
that is not pipeline bubble, and adds the data-parallel reduction. It is good enough to rank layouts, but not to predict
seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_train.config.flags import CommandLine
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.config.validate import validate, validate_model
from megatron_train.planning.devices import GPUS_PER_NODE, Device
from megatron_train.planning.memory import stage_memory, weight_bytes
from megatron_train.planning.workload import DataFacts, Workload, bubble_fraction, workload
from pretokenizer.config.yaml_config import ConfigError

RESERVE = 0.94
"""Share of the GPU's memory that a plan may fill. The rest is left for fragmentation."""
RECOMPUTE_COST = {None: 1.0, "selective": 1.02, "full": 4 / 3}
"""recompute_granularity -> factor on the computing time, for the forward passes that run twice."""
ACCUMULATION_BYTES = 8
"""Bytes of memory traffic for each weight and micro-batch: its fp32 gradient is read and written."""
LAUNCH_SECONDS = 0.3e-3
"""Seconds to launch the kernels of one layer for one micro-batch, forward and backward: about 60 kernels at 5
microseconds."""


@dataclass(frozen=True)
class Suggestion:
    """A parallel layout that fits in memory, with its peak memory in GiB and its estimated seconds per iteration."""

    layout: ParallelLayout
    micro_batch_size: int
    recompute: str
    """The value of recompute_granularity: none, selective or full."""
    gib: float
    """Peak memory of the fullest rank in GiB."""
    seconds: float
    """Estimated seconds per iteration."""
    reason: str
    """The parts of the estimated time, and the memory, as text."""


def suggest(
    command: CommandLine, model: ModelConfig, facts: DataFacts | None, world_size: int, device: Device, mfu: float
) -> list[Suggestion]:
    """Return the parallel layouts that fit in the memory of `device`, by estimated seconds, the fastest first.

    Each combination of tensor, pipeline and virtual pipeline size occurs once, with its fastest micro-batch size,
    recomputation and split of the layers. `mfu` is the expected share of the GPU's peak FLOP/s.
    """
    best: dict[tuple[int, int, int], Suggestion] = {}
    for config, layout in candidates(command, model, world_size):
        found = judge(config, model, facts, layout, device, mfu)
        key = (layout.tp, layout.pp, layout.vpp)
        if found and (key not in best or found.seconds < best[key].seconds):
            best[key] = found
    return sorted(best.values(), key=lambda suggestion: suggestion.seconds)


def candidates(
    command: CommandLine, model: ModelConfig, world_size: int
) -> Iterator[tuple[TrainConfig, ParallelLayout]]:
    """Yield combinations of layout, micro-batch size and recomputation that the trainer accepts for this model.

    Tensor-parallel sizes are powers of two within a node, micro-batch sizes 1, 2, 4 and 8, and recomputation is off or
    full. Each combination is yielded as the settings of the command with these values filled in, and the layout.
    """
    sizes = [2**n for n in range(11) if 2**n <= world_size]
    stages = [size for size in range(1, model.num_layers + 1) if world_size % size == 0]
    for tp, pp, vpp in itertools.product([t for t in sizes if t <= GPUS_PER_NODE], stages, (1, 2, 4, 5)):
        if world_size % (tp * pp) or (vpp > 1 and pp == 1):
            continue
        even = ParallelLayout(world_size, tp, pp, vpp)
        layouts = [even, *uneven_layouts(even, model.num_layers)]
        for layout, micro, recompute in itertools.product(layouts, (1, 2, 4, 8), (None, "full")):
            config = _config(command.config, layout, micro, recompute)
            try:
                validate(replace(command, config=config), layout)
                validate_model(replace(command, config=config), model, layout)
            except ConfigError:
                continue
            yield config, layout


def uneven_layouts(even: ParallelLayout, num_layers: int) -> Iterator[ParallelLayout]:
    """Yield the layouts with the stages of `even`, but other numbers of layers on the first and the last stage.

    The stages between them have the smallest number of layers above that of an even split. The first and the last stage
    have at most as many, because they also have the embedding and the output layer.
    """
    pp, step = even.pp, even.vpp
    if pp == 1:
        return
    between = (num_layers // (pp * step) + 1) * step
    ends = num_layers - (pp - 2) * between
    for first in range(step, ends, step):
        if max(first, ends - first) <= between:
            yield replace(even, first_layers=first, last_layers=ends - first)


def _config(config: TrainConfig, layout: ParallelLayout, micro_batch_size: int, recompute: str | None) -> TrainConfig:
    parallel = replace(
        config.parallel,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        decoder_first_pipeline_num_layers=layout.first_layers,
        decoder_last_pipeline_num_layers=layout.last_layers,
        sequence_parallel=layout.tp > 1,
    )
    full = recompute == "full"
    model = replace(
        config.model,
        recompute_granularity="full" if full else None,
        recompute_method="uniform" if full else None,
        recompute_num_layers=1 if full else None,
    )
    batch = replace(
        config.batch,
        micro_batch_size=micro_batch_size,
        global_batch_size=config.batch.global_batch_size or micro_batch_size * layout.dp,
    )
    return replace(config, parallel=parallel, model=model, batch=batch)


def judge(
    config: TrainConfig, model: ModelConfig, facts: DataFacts | None, layout: ParallelLayout, device: Device, mfu: float
) -> Suggestion | None:
    """Estimate memory and time of the run `config` in the parallel layout `layout`, and return them as a Suggestion.

    `facts` is None when nothing is known about the data, and `mfu` is the expected share of the GPU's peak FLOP/s.
    Return None when a rank needs more than the share RESERVE of the memory of `device`.
    """
    peak = max(stage_memory(model, config, layout, stage).total for stage in range(layout.pp)) / 2**30
    if peak > RESERVE * device.memory:
        return None
    work = workload(config, model, facts, layout)
    computing = work.flops_per_iteration / (layout.world_size * device.peak * mfu) * stage_imbalance(model, layout)
    computing *= RECOMPUTE_COST[config.model.recompute_granularity]
    most_layers, batches = max(layout.stage_layers(model.num_layers)), layout.num_microbatches(config.batch)
    launches = batches * (LAUNCH_SECONDS * most_layers + accumulation_seconds(model, layout, device))
    messages = tensor_seconds(model, config, layout, device, work) + stage_seconds(model, config, layout, device, work)
    data = data_seconds(model, config, layout, device)
    bubble = bubble_fraction(layout.pp, layout.vpp, batches)
    seconds = (computing + launches + messages) / (1 - bubble) + data
    reason = (
        f"computing {computing:.2f} s, micro-batches {launches:.2f} s, messages {messages:.2f} s, bubble {bubble:.0%}, "
        f"gradients {data:.2f} s; {peak:.0f} of {device.memory:.0f} GiB"
    )
    recompute = config.model.recompute_granularity or "none"
    return Suggestion(layout, config.batch.micro_batch_size, recompute, peak, seconds, reason)


def stage_imbalance(model: ModelConfig, layout: ParallelLayout) -> float:
    """Return the work of the slowest pipeline stage as a multiple of the mean over the stages.

    Work is counted in weights that a stage multiplies with. The last stage has the output layer besides its own layers.
    The embedding is only looked up.
    """
    layer, output = model.parameters_per_layer(), model.padded_vocab * model.hidden_size
    weights = [count * layer for count in layout.stage_layers(model.num_layers)]
    weights[-1] += output
    return max(weights) * layout.pp / sum(weights)


def tensor_seconds(
    model: ModelConfig, config: TrainConfig, layout: ParallelLayout, device: Device, work: Workload
) -> float:
    """Return the seconds per iteration that tensor-parallel communication takes.

    Each layer has 4 all-gathers and 4 reduce-scatters of the hidden states.
    """
    if layout.tp == 1:
        return 0.0
    tokens = work.positions_per_iteration / layout.dp
    message = tokens * model.hidden_size * weight_bytes(config) * (layout.tp - 1) / layout.tp
    return 8 * message * max(layout.stage_layers(model.num_layers)) / device.link


def stage_seconds(
    model: ModelConfig, config: TrainConfig, layout: ParallelLayout, device: Device, work: Workload
) -> float:
    """Return the seconds per iteration that communication between pipeline stages takes.

    Each micro-batch sends its hidden states forward and their gradients back, once per model chunk.
    """
    if layout.pp == 1:
        return 0.0
    split = layout.tp if config.parallel.sequence_parallel else 1
    message = work.positions_per_iteration / layout.dp * model.hidden_size * weight_bytes(config) / split
    inside = layout.world_size <= GPUS_PER_NODE
    return 2 * layout.vpp * message / (device.link if inside else device.network)


def accumulation_seconds(model: ModelConfig, layout: ParallelLayout, device: Device) -> float:
    """Return the seconds that one micro-batch takes to read and write the fp32 gradients of a rank."""
    own = model.num_parameters(model.padded_vocab) / (layout.tp * layout.pp)
    return own * ACCUMULATION_BYTES / device.bandwidth


def data_seconds(model: ModelConfig, config: TrainConfig, layout: ParallelLayout, device: Device) -> float:
    """Return the seconds per iteration that data-parallel ranks take to reduce fp32 gradients and gather weights.

    With overlap_grad_reduce, half of that time is assumed to overlap with computing.
    """
    if layout.dp == 1:
        return 0.0
    own = model.num_parameters(model.padded_vocab) / (layout.tp * layout.pp)
    inside = layout.world_size <= GPUS_PER_NODE
    seconds = (
        own * (4 + weight_bytes(config)) * (layout.dp - 1) / layout.dp / (device.link if inside else device.network)
    )
    return seconds / 2 if config.parallel.overlap_grad_reduce else seconds
