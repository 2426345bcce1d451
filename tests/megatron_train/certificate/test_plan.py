from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.plan import asked_layouts, plan_certificate
from megatron_train.config.flags import CommandLine, config_from_settings
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA


@pytest.fixture
def command(tmp_path: Path) -> Any:
    """Return a function that makes the command line of a run with the settings given."""
    replace(LLAMA, num_layers=24).save(tmp_path / "model.yaml")
    shard = write_shard(tmp_path / "toy", toy_documents(20))

    def of(**settings: Any) -> CommandLine:
        base = {"model": str(tmp_path / "model.yaml"), "train_data_path": [shard], "seq_length": 64}
        return CommandLine(config_from_settings(base | settings, "test"), {}, {})

    return of


def test_the_configured_layout_has_the_data_parallel_ranks_of_the_run(command: Any) -> None:
    configured = command(tensor_model_parallel_size=2)
    assert [str(layout) for layout in asked_layouts(configured, None, None)] == ["tp2"]
    assert [str(layout) for layout in asked_layouts(configured, None, 8)] == ["tp2-dp4"]
    assert [str(layout) for layout in asked_layouts(configured, "pp2,dp2,pp2", None)] == ["pp2", "dp2"]


def test_a_16_bit_run_is_compared_in_fp32_and_in_its_own_precision(command: Any, tmp_path: Path) -> None:
    configured = command(bf16=True, recompute_granularity="selective", tensor_model_parallel_size=2)
    plan = plan_certificate(configured, asked_layouts(configured, None, 4), 16, tmp_path)
    assert {name: reference.model.bf16 for name, reference in plan.references.items()} == {"fp32": False, "bf16": True}
    assert [(str(case.layout), case.precision, case.config.model.bf16) for case in plan.cases] == [
        ("tp2-dp2", "fp32", False),
        ("tp2-dp2", "bf16", True),
    ]
    assert {case.config.model.recompute_granularity for case in plan.cases} == {"selective"}
    assert plan.references["fp32"].model.recompute_granularity is None
    assert {case.config.batch.global_batch_size for case in plan.cases} == {4}
    assert plan.num_documents == 20


@pytest.mark.parametrize(
    ("settings", "name", "layers"),
    [
        ({"pipeline_model_parallel_size": 8, "decoder_last_pipeline_num_layers": 3}, "pp4-last1", [2, 2, 2, 1]),
        (
            {
                "pipeline_model_parallel_size": 2,
                "virtual_pipeline_model_parallel_size": 2,
                "decoder_first_pipeline_num_layers": 14,
                "global_batch_size": 4,
            },
            "pp2-vpp2-first2",
            [2, 4],
        ),
    ],
)
def test_uneven_stages_stay_uneven(
    settings: dict[str, Any], name: str, layers: list[int], command: Any, tmp_path: Path
) -> None:
    configured = command(**settings)
    plan = plan_certificate(configured, [NamedLayout(configured.config.parallel)], 4, tmp_path)
    (case,) = plan.cases
    assert str(case.layout) == name
    assert case.layout.ranks.stage_layers(plan.small.num_layers) == layers
