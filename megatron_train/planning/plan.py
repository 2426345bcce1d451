"""Compute the plan of a run from its settings: architecture, memory of each pipeline stage, amount of work.

The plan needs no GPU, no model weights and none of the data or checkpoint files that the settings name.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_train.checkpoint.folder import MODEL_CONFIG, CheckpointError, find_checkpoint
from megatron_train.config.flags import CommandLine
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import TrainConfig
from megatron_train.config.validate import validate, validate_model
from megatron_train.planning.devices import DEVICES, Device
from megatron_train.planning.memory import StageMemory, stage_memory
from megatron_train.planning.workload import DataFacts, Workload, data_facts, published_facts, workload
from pretokenizer.config.paths import find_config, shipped_configs
from pretokenizer.config.yaml_config import ConfigError

MODELS = shipped_configs() / "model"


@dataclass(frozen=True)
class Plan:
    """The contents of `plan`'s report: settings, architecture, memory of each stage, data and work."""

    config: TrainConfig
    model: ModelConfig
    model_source: str
    """Path of the file that defines the architecture."""
    layout: ParallelLayout
    stages: list[StageMemory]
    facts: DataFacts | None
    """The amount of training data; None when it is unknown."""
    work: Workload
    device: Device
    mfu: float
    """Expected share of the device's peak FLOP/s, above 0 and at most 1."""


def make_plan(command: CommandLine, own: argparse.Namespace) -> Plan:
    """Check the training settings in `command` as a launch does, and return the plan of the run.

    `own` has the parsed flags that only `plan` has. Raises ConfigError for settings that a launch would refuse.
    """
    config = command.config
    if own.world_size < 1 or not 0 < own.mfu <= 1:
        raise ConfigError("--world_size must be at least 1, --mfu above 0 and at most 1")
    layout = ParallelLayout.planned(config.parallel, own.world_size)
    validate(command, layout)
    model, source = find_model(command, own.vocab_size)
    validate_model(command, model, layout)
    facts = data_facts(config.data, config.batch.seed, own.num_documents, own.num_document_tokens)
    stages = [stage_memory(model, config, layout, stage) for stage in range(layout.pp)]
    work = workload(config, model, facts, layout)
    return Plan(config, model, source, layout, stages, facts, work, DEVICES[own.gpu], own.mfu)


def find_model(command: CommandLine, vocab_size: int | None) -> tuple[ModelConfig, str]:
    """Return the model architecture of a run, and the path of the file that defines it.

    The vocabulary is enlarged to `vocab_size`, or with None to what is known of the vocabulary of the data. The file is
    the one of --model, else that of the checkpoint in --load. If that checkpoint does not exist, it is the file in
    configs/model whose name the folder name of --load begins with. Raises ConfigError when there is no file.
    """
    config, source = command.config, command.config.model.model
    load = config.checkpoint.load
    if load and not source:
        try:
            source = str(find_checkpoint(load, config.checkpoint.load_iters) / MODEL_CONFIG)
        except CheckpointError:
            named = _model_named_like(load)
            if named is None:
                known = ", ".join(sorted(path.stem for path in MODELS.glob("*.yaml")))
                raise ConfigError(
                    f"{load} does not exist and names no known architecture; add --model configs/model/NAME.yaml "
                    f"({known})"
                ) from None
            source = os.path.relpath(named)
    if not source:
        raise ConfigError("no architecture: give --model configs/model/NAME.yaml, or --load CHECKPOINT")
    model = ModelConfig.load(find_config("model", source))
    rows = max(model.vocab_size, vocab_size or _data_vocabulary(command, model))
    if rows != model.vocab_size:
        model = replace(model, vocab_size=rows, padded_vocab_size=None, source_vocab_size=model.vocab_size)
    return model.with_positions(config.model.max_position_embeddings), source


def _model_named_like(load: str) -> Path | None:
    folder = Path(load).name.replace("_", "-").lower()
    fits = [path for path in MODELS.glob("*.yaml") if folder.startswith(path.stem.replace("_", "-"))]
    return max(fits, key=lambda path: len(path.stem), default=None)


def _data_vocabulary(command: CommandLine, model: ModelConfig) -> int:
    """Return the vocabulary size of the training data, or 0 when it is not known.

    With --vocab_extra_ids_list it is the model's vocabulary plus Megatron-LLM's five special tokens and the tokens
    listed. Otherwise it is the size that configs/cards.yaml publishes for the shards.
    """
    if command.extra_tokens:
        return model.vocab_size + 5 + len(command.extra_tokens)
    data = command.config.data
    known = [published_facts(prefix) for prefix in (*data.train_data_path, *data.data_path)]
    return max((facts["vocab_size"] for facts in known if facts), default=0)
