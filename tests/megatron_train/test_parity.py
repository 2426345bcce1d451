"""Every parallel layout trains as one process does: loss, gradient norm, every gradient and every update.

    pytest tests/megatron_train/test_parity.py               every pair of settings at least once (about two minutes)
    PARITY=full pytest tests/megatron_train/test_parity.py   every combination for Llama, half of them for the others

The records of a run, their comparison and its limits are those of the command `parity` (megatron_train/certificate).
The optimizer is AdamW with a large eps, so that an update is proportional to its gradient and a wrong factor shows.
Dropout draws the same numbers as one process only when each rank holds the whole residual stream (tensor parallelism
alone). The other layouts with dropout are compared with the same layout without recomputation.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from megatron_train.certificate.comparison import Difference, Trace, compare
from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.certificate.report import Result
from tests.conftest import toy_documents, write_shard

LAYOUTS = {
    1: ("one",),
    2: ("tp2", "tp2-sp", "pp2", "pp2-vpp2", "dp2", "dp2-overlap-reduce", "dp2-overlap"),
    4: (
        *("tp4", "tp4-sp", "pp4", "tp2-pp2", "tp2-pp2-sp", "tp2-pp2-vpp2-sp"),
        *("tp2-dp2", "tp2-dp2-sp-overlap", "pp2-dp2", "pp2-vpp2-dp2-overlap", "dp4"),
    ),
}
"""Number of processes -> names of layouts (megatron_train/certificate/layouts.py)."""
SHARES_STREAMS = {"one", "tp2", "tp4"}
RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective"},
    "uniform": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    "block": {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 1},
}
DISTINCT_FAMILIES = ("llama", "qwen3", "neox_parallel", "falcon_7b")
MIXED_FAMILIES = ("qwen2", "neox_sequential", "falcon_40b")
"""Families that mix the features of the distinct ones. `make test` leaves them out."""
FAMILIES = DISTINCT_FAMILIES + MIXED_FAMILIES
SETTINGS: dict[str, Any] = {
    "global_batch_size": 8,
    "micro_batch_size": 2,
    "lr": 0.3,
    "lr_decay_style": "constant",
    "adam_eps": 1.0,
    "weight_decay": 0.01,
}


@dataclass(frozen=True)
class Case:
    """The settings of one run to compare."""

    layout: str
    family: str
    rows: str
    dtype: str
    dropout: str
    recompute: str

    def __str__(self) -> str:
        return "-".join((self.layout, self.family, self.rows, self.dtype, self.dropout, self.recompute))

    @property
    def reference(self) -> Case:
        """Return the case with the same expected trace: one process, or this layout if its dropout streams differ."""
        layout = "one" if self.dropout == "0" or self.layout in SHARES_STREAMS else self.layout
        return replace(self, layout=layout, recompute="none")

    @property
    def iterations(self) -> int:
        """Return 2 when the updated weights arrive during the next forward pass, else 1."""
        return 2 if "overlap" in self.layout else 1

    def settings(self) -> dict[str, Any]:
        layout = vars(NamedLayout.of(self.layout).parallel)
        dropout = {"hidden_dropout": 0.25, "lima_dropout": True} if self.dropout == "lima" else {}
        shape = {"packing": self.rows == "packed", "bf16": self.dtype == "bf16"}
        return SETTINGS | shape | dropout | layout | RECOMPUTE[self.recompute]


def choices(world: int) -> list[tuple[str, ...]]:
    return [LAYOUTS[world], FAMILIES, ("padded", "packed"), ("fp32", "bf16"), ("0", "lima"), tuple(RECOMPUTE)]


def all_cases(world: int) -> list[Case]:
    """Return every combination for Llama, and every combination without recomputation for the other families."""
    everything = (Case(*values) for values in itertools.product(*choices(world)))
    return [case for case in everything if case.family == "llama" or case.recompute == "none"]


def pairwise_cases(values: list[tuple[str, ...]]) -> list[Case]:
    """Return few cases in which every two values of different settings meet.

    The next case is always the one with most new pairs.
    """
    open_pairs = {
        ((i, a), (j, b)) for i, j in itertools.combinations(range(len(values)), 2) for a in values[i] for b in values[j]
    }
    cases = []
    candidates = list(itertools.product(*values))
    while open_pairs:
        best = max(candidates, key=lambda case: len(_pairs(case) & open_pairs))
        open_pairs -= _pairs(best)
        cases.append(Case(*best))
    return cases


def _pairs(values: tuple[str, ...]) -> set[Any]:
    return set(itertools.combinations(enumerate(values), 2))


QK_NORM_CASES = {
    world: [Case(layout, "qwen3", rows, "fp32", "0", "none") for layout in layouts for rows in ("padded", "packed")]
    for world, layouts in ((2, ("tp2", "tp2-sp")), (4, ("tp2-pp2-sp",)))
}
"""Cases that compare the gradient of each query and key norm in full precision.

Each tensor-parallel rank sees only some heads, and with sequence parallelism only some positions. A missing sum over
the ranks shows in no loss of the same iteration.
"""
if os.environ.get("PARITY") == "full":
    CASES = {world: all_cases(world) for world in (2, 4)}
    CASES[1] = [Case(*values) for values in itertools.product(*choices(1)) if values[-1] != "none"]
    OTHER_FAMILIES: list[Case] = []
else:
    CASES = {world: pairwise_cases([LAYOUTS[world], DISTINCT_FAMILIES, *choices(world)[2:]]) for world in (2, 4)}
    CASES[1] = pairwise_cases([("one",), ("llama",), *choices(1)[2:-1], ("selective", "uniform", "block")])
    OTHER_FAMILIES = pairwise_cases([LAYOUTS[2], MIXED_FAMILIES, *choices(2)[2:]])
for world, qk_norm_cases in QK_NORM_CASES.items():
    CASES[world] = list(dict.fromkeys([*CASES[world], *qk_norm_cases]))


def run_case(case: Case, iterations: int, folder: Path) -> Trace:
    """Train `iterations` iterations of one case."""
    from megatron_train.parity_ranks import trace_run
    from tests.megatron_train.models import MODELS
    from tests.megatron_train.runs import start

    settings = case.settings() | {"train_data_path": [str(folder / "toy")], "train_iters": iterations}
    return trace_run(start(MODELS[case.family], settings, folder / case.family / "iter_0000000"))


def write_inputs(folder: Path, families: set[str]) -> None:
    """Write a toy shard and one checkpoint of random weights per family, from which every layout starts."""
    from tests.megatron_train.models import MODELS
    from tests.megatron_train.runs import save, start

    write_shard(folder / "toy", toy_documents(64))
    for family in sorted(families):
        save(start(MODELS[family], {"train_data_path": [str(folder / "toy")]}), folder / family)


def run_references(folder: Path, cases: list[Case]) -> dict[str, Difference]:
    """Write the one-process trace that each case needs to `folder`, and return the differences of one-process cases."""
    write_inputs(folder, {case.family for case in cases})
    for case in {str(trace_path(case, folder)): case for case in cases if case.reference.layout == "one"}.values():
        run_case(case.reference, case.iterations, folder).save(trace_path(case, folder))
    return compare_all(folder, [case for case in cases if case.layout == "one"])


def trace_path(case: Case, folder: Path) -> Path:
    """Return the file of the one-process trace that `case` is compared with."""
    return folder / f"{case.reference}-{case.iterations}.pt"


def compare_all(folder: Path, cases: list[Case]) -> dict[str, Difference]:
    """Run `cases` one after another in this launch, and return their differences, which are the same on every rank."""
    results: dict[str, Difference] = {}
    own: dict[Case, Trace] = {}
    for case in sorted(cases, key=lambda case: case.layout):  # process groups are created once per layout
        try:
            if case.reference.layout == "one":
                expected = Trace.load(trace_path(case, folder))
            else:
                if case.reference not in own:
                    own[case.reference] = run_case(case.reference, case.iterations, folder)
                expected = own[case.reference]
            results[str(case)] = compare(run_case(case, case.iterations, folder), expected)
        except Exception as error:
            raise RuntimeError(f"in {case}") from error
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def one(folder: Path, request: pytest.FixtureRequest) -> dict[str, Difference]:
    return run_distributed(run_references, 1, folder, selected_cases(request), timeout=3600)[0]


@pytest.fixture(scope="module")
def two(folder: Path, one: object, request: pytest.FixtureRequest) -> dict[str, Difference]:
    return run_distributed(compare_all, 2, folder, cases_of(2, selected_cases(request)), timeout=3600)[0]


@pytest.fixture(scope="module")
def four(folder: Path, one: object, request: pytest.FixtureRequest) -> dict[str, Difference]:
    return run_distributed(compare_all, 4, folder, cases_of(4, selected_cases(request)), timeout=3600)[0]


def selected_cases(request: pytest.FixtureRequest) -> list[Case]:
    """Return the cases that this pytest run selected."""
    found = (getattr(item, "callspec", None) for item in request.session.items)
    return [spec.params["case"] for spec in found if spec and isinstance(spec.params.get("case"), Case)]


def cases_of(world: int, cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.layout in LAYOUTS[world]]


@pytest.mark.parametrize("case", CASES[1], ids=str)
def test_one_process_is_the_same_when_it_recomputes(case: Case, one: dict[str, Difference]) -> None:
    check(case, one[str(case)])


@pytest.mark.parametrize(
    "case", [*CASES[2], *(pytest.param(case, marks=pytest.mark.long) for case in OTHER_FAMILIES)], ids=str
)
def test_two_processes_train_as_one(case: Case, two: dict[str, Difference]) -> None:
    check(case, two[str(case)])


@pytest.mark.long
@pytest.mark.parametrize("case", CASES[4], ids=str)
def test_four_processes_train_as_one(case: Case, four: dict[str, Difference]) -> None:
    check(case, four[str(case)])


def check(case: Case, difference: Difference) -> None:
    assert Result(NamedLayout.of(case.layout), case.dtype, difference).failures() == []
