"""Decide what a parity certificate runs: layouts, small model, sample of the data, and the settings of each run.

certificate = plan_certificate(command, asked_layouts(command, names, world_size), most_processes=16, folder=folder)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.miniature import (
    LayoutPair,
    in_layout,
    in_precision,
    micro_batches,
    small_config,
    small_model,
)
from megatron_train.certificate.sample import write_sample
from megatron_train.config.flags import CommandLine
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.settings import TrainConfig
from megatron_train.config.validate import validate, validate_model
from megatron_train.planning.plan import find_model
from pretokenizer.config.yaml_config import ConfigError

SAMPLE = "sample"
"""Name of the shard of sampled documents in the working folder."""
DOCUMENTS_PER_ROW = 4


@dataclass(frozen=True)
class Case:
    """One run of the small model in a parallel layout, which is compared with its run in one process."""

    layout: NamedLayout
    precision: str
    """fp32, bf16 or fp16."""
    config: TrainConfig


@dataclass(frozen=True)
class Certificate:
    """The runs that show whether parallel layouts train as one process does, and the user's run that they stand for."""

    command: CommandLine
    model: ModelConfig
    """The architecture of the user's run."""
    small: ModelConfig
    pairs: list[LayoutPair]
    references: dict[str, TrainConfig]
    """Precision -> settings of the run in one process, fp32 first."""
    cases: list[Case]
    num_documents: int
    """Number of documents in the sample of the user's data."""


def asked_layouts(command: CommandLine, names: str | None, world_size: int | None) -> list[NamedLayout]:
    """Return the layouts to certify: those of the comma-separated `names`, else the one in the settings.

    `world_size` is the number of ranks of the user's run, which gives its data parallelism. Raises ConfigError when a
    name cannot be understood, when the ranks do not fit the layout, and when there is only one process.
    """
    if names is not None:
        layouts = [NamedLayout.of(name) for name in names.split(",")]
    else:
        one_copy = NamedLayout(command.config.parallel)
        ranks = replace(one_copy.ranks, world_size=world_size or one_copy.world_size)
        if ranks.problems():
            raise ConfigError("\n".join(ranks.problems()))
        layouts = [NamedLayout(command.config.parallel, ranks.dp)]
    if all(layout.world_size == 1 for layout in layouts):
        raise ConfigError(
            "there is no parallel layout to compare with one process: give --world_size N, the ranks of your run, or "
            "--layouts tp2,pp2"
        )
    return list(dict.fromkeys(layouts))


def plan_certificate(
    command: CommandLine, layouts: list[NamedLayout], most_processes: int, folder: Path
) -> Certificate:
    """Check the user's settings, write a sample of the data to `folder`, and return what to run.

    Each layout is shrunk to at most `most_processes` processes. Raises ConfigError for settings that a training run
    would refuse, or if `most_processes` is too small, and ShardError for data that cannot be read.
    """
    config = command.config
    model, _ = find_model(command, None)
    for layout in layouts:
        check_layout(command, model, layout)
    pairs = [LayoutPair(layout, layout.reduced(most_processes)) for layout in layouts]
    for pair in pairs:
        if pair.small.world_size == 1 < pair.asked.world_size:
            raise ConfigError(f"layout {pair.asked}: give a larger --max_processes than {most_processes}")
    small = small_model(model, pairs, config.data.seq_length)
    num_micro_batches = math.lcm(*(pair.small.dp * micro_batches(config, pair) for pair in pairs))
    prefix = folder / SAMPLE
    reference = small_config(config, str(prefix), num_micro_batches)
    rows = reference.batch.train_iters * (reference.batch.global_batch_size or 1)
    num_documents = write_sample(config.data, config.batch.seed, DOCUMENTS_PER_ROW * rows, small.vocab_size, prefix)
    precisions = ["fp32", *(name for name in ("bf16", "fp16") if getattr(config.model, name))]
    references = {precision: in_precision(reference, precision) for precision in precisions}
    cases = [
        Case(pair.small, precision, in_layout(each, pair.small, config.model))
        for pair in pairs
        for precision, each in references.items()
    ]
    return Certificate(command, model, small, pairs, references, cases, num_documents)


def check_layout(command: CommandLine, model: ModelConfig, layout: NamedLayout) -> None:
    """Raise ConfigError, which names the layout, when the user's settings or model do not fit it."""
    config = command.config
    parallel = replace(
        layout.parallel,
        context_parallel_size=config.parallel.context_parallel_size,
        distributed_timeout_minutes=config.parallel.distributed_timeout_minutes,
    )
    is_configured = parallel == replace(config.parallel, device=parallel.device)
    batch = config.batch if is_configured else replace(config.batch, global_batch_size=None)
    in_layout = replace(command, config=replace(config, parallel=parallel, batch=batch))
    try:
        validate(in_layout, layout.ranks)
        validate_model(in_layout, model, layout.ranks)
    except ConfigError as error:
        raise ConfigError(f"layout {layout}: {error}") from error
