"""The certificate passes three layouts, and fails each known silent fault of other trainers that is put into one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_train.certificate.comparison import Difference
from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.certificate.plan import Case, plan_certificate
from megatron_train.certificate.report import Result
from megatron_train.config.flags import CommandLine, config_from_settings
from megatron_train.config.model_config import ModelConfig
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA

pytestmark = pytest.mark.long

MODEL = replace(
    LLAMA,
    family="qwen2",
    num_attention_heads=8,
    num_query_groups=1,
    add_qkv_bias=True,
    share_embeddings_and_output_weights=True,
)
"""Tied embeddings, one key/value head with a bias, and padding rows in the vocabulary."""
LAYOUTS = ("pp4", "tp2-pp2-sp", "tp4")
RUNS = {
    "boundaries lost on middle stages": "pp4",
    "norm gradients not summed": "tp2-pp2-sp",
    "tied embeddings not summed": "tp2-pp2-sp",
    "queries of the first rank": "tp4",
    "padding rows in the softmax": "tp4",
}
"""Name of a fault in silent_faults.py -> layout that it is put into."""


def with_faults(model: ModelConfig, cases: list[Case], faults: list[str], folder: Path) -> list[Difference]:
    """Run each case with its fault. All ranks call this function."""
    from megatron_train.parity_ranks import compare_cases
    from tests.megatron_train.silent_faults import FAULTS

    differences = []
    for case, fault in zip(cases, faults, strict=True):
        with FAULTS[fault]():
            differences += compare_cases(model, [case], folder)
    return differences


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Result]:
    """(fault, layout) -> result of the certificate."""
    from megatron_train.parity_ranks import record_references

    folder = tmp_path_factory.mktemp("parity")
    MODEL.save(folder / "model.yaml")
    settings = {
        "model": str(folder / "model.yaml"),
        "train_data_path": [write_shard(folder / "toy", toy_documents(200))],
        "packing": True,
        "seq_length": 64,
        "global_batch_size": 4,
        "train_iters": 10,
    }
    command = CommandLine(config_from_settings(settings, "test"), {}, {})
    plan = plan_certificate(command, [NamedLayout.of(name) for name in LAYOUTS], 16, folder)
    by_layout = {str(case.layout): case for case in plan.cases}
    runs = [("none", layout) for layout in LAYOUTS] + list(RUNS.items())
    run_distributed(record_references, 1, plan.small, plan.references, folder)
    cases = [by_layout[layout] for _, layout in runs]
    found = run_distributed(with_faults, 4, plan.small, cases, [fault for fault, _ in runs], folder)[0]
    return {run: Result(case.layout, case.precision, each) for run, case, each in zip(runs, cases, found, strict=True)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_right_layout_passes(layout: str, results: dict[tuple[str, str], Result]) -> None:
    assert results["none", layout].failures() == []


@pytest.mark.parametrize("fault", RUNS)
def test_a_silent_fault_fails(fault: str, results: dict[tuple[str, str], Result]) -> None:
    failures = results[fault, RUNS[fault]].failures()
    assert any("gradient" in line for line in failures), failures
