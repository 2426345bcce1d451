from __future__ import annotations

from dataclasses import fields

from megatron_train.config.flags import GROUPS
from megatron_train.config.ranges import RANGES, range_problems
from megatron_train.config.settings import TrainConfig


def test_every_number_has_a_range() -> None:
    numbers = set()
    for cls in GROUPS.values():
        hints = {field.name: field.type for field in fields(cls)}
        numbers |= {name for name, hint in hints.items() if {"int", "float"} & set(str(hint).replace("|", " ").split())}
    parallel = {"tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size"}
    parallel |= {"decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"}
    assert numbers - set(RANGES) == parallel | {"context_parallel_size"}  # ParallelLayout.problems checks them


def test_the_defaults_are_in_range() -> None:
    assert range_problems(TrainConfig()) == []
