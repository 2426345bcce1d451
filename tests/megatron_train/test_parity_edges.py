"""Parallel layouts at the edges of what the trainer accepts train as one process does. test_parity.py has the rest.

PARITY=edges pytest tests/megatron_train/test_parity_edges.py   each edge once, in fp32
PARITY=full pytest tests/megatron_train/test_parity_edges.py    padded and packed rows, in fp32 and bf16

`make parity` runs the second. `make test` runs neither: it has the ordinary layouts of test_parity.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megatron_train.certificate.comparison import Difference, Trace, compare
from megatron_train.certificate.layouts import NamedLayout
from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.certificate.report import Result
from megatron_train.config.model_config import ModelConfig
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA, MODELS
from tests.megatron_train.test_parity import SETTINGS

pytestmark = pytest.mark.skipif("PARITY" not in os.environ, reason="PARITY=edges or PARITY=full runs these layouts")
EDGE_MODELS: dict[str, ModelConfig] = {
    "llama": LLAMA,
    "deep": replace(LLAMA, num_layers=8),
    "ten_layers": replace(LLAMA, num_layers=10),
    "tied": replace(LLAMA, share_embeddings_and_output_weights=True),
    "one_kv_head": replace(MODELS["qwen2"], num_query_groups=1),
    "padding": replace(LLAMA, padded_vocab_size=256),  # of 120 token ids: the second half of the rows is padding
    "falcon_7b": MODELS["falcon_7b"],
}
CLIPPED = {"clip_grad": 0.01}
SMALL_BUCKET = 4096
"""Elements. megatron-core's own limit of 40 million puts a tiny model into one bucket."""


@dataclass(frozen=True)
class Edge:
    """The settings of one run to compare with one process."""

    layout: str
    """Name of a parallel layout (megatron_train/certificate/layouts.py)."""
    model: str
    extra: dict[str, Any] = field(default_factory=dict)
    """Settings of the layout that its name does not have."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Settings that the run in one process has too."""
    small_buckets: bool = False
    batched_messages: bool = False
    rows: str = "packed"
    dtype: str = "fp32"

    def __str__(self) -> str:
        parts = [
            f"{name}={value}"
            for name, value in {**self.extra, **self.shared}.items()
            if value is not None and not name.startswith("recompute")
        ]
        parts += ["small_buckets"] * self.small_buckets + ["batched_messages"] * self.batched_messages
        return "-".join((self.layout, self.model, *parts, self.rows, self.dtype))

    @property
    def world_size(self) -> int:
        return NamedLayout.of(self.layout).world_size

    @property
    def reference(self) -> str:
        """The name of the run in one process."""
        return "-".join((self.model, *map(str, self.shared.values()), self.rows, self.dtype))

    def settings(self) -> dict[str, Any]:
        """Return the settings of the run in one process."""
        return SETTINGS | self.shared | {"packing": self.rows == "packed", "bf16": self.dtype == "bf16"}

    def parallel_settings(self) -> dict[str, Any]:
        return vars(NamedLayout.of(self.layout).parallel) | self.extra


def stages(first: int | None = None, last: int | None = None) -> dict[str, int | None]:
    return {"decoder_first_pipeline_num_layers": first, "decoder_last_pipeline_num_layers": last}


UNIFORM = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 2}
EDGES = [
    Edge("dp2-overlap-reduce", "llama", small_buckets=True),
    Edge("dp2-overlap", "llama", small_buckets=True, rows="padded"),
    Edge("pp2-vpp4", "deep"),
    Edge("pp2", "tied", rows="padded"),
    Edge("tp2", "padding"),
    Edge("pp2", "llama", shared=CLIPPED),
    Edge("pp2", "llama", stages(first=3), rows="padded"),
    Edge("pp2", "falcon_7b", stages(last=3)),
    Edge("pp2-vpp2", "deep", stages(first=2, last=6)),
    Edge("pp2-vpp2-dp2", "llama"),
    Edge("pp2-vpp2-dp2-overlap", "llama", small_buckets=True),
    Edge("tp2-pp2-sp", "tied"),
    Edge("tp4", "one_kv_head", rows="padded"),
    Edge("tp4-sp", "padding"),
    Edge("tp2-dp2", "llama", shared=CLIPPED),
    Edge("pp4", "llama", shared={"global_batch_size": 4}),  # two micro-batches
    Edge("pp4", "deep", stages(first=1, last=3) | UNIFORM),
    Edge("pp4-vpp2", "deep", batched_messages=True, rows="padded"),
    Edge("pp4-vpp2", "ten_layers", stages(first=4, last=2)),
]
SILENTLY_WRONG = Edge("pp2-vpp2", "deep", batched_messages=True)
"""This layout with batched messages gives wrong gradients in megatron-core 0.16.1."""
if os.environ.get("PARITY") == "full":
    EDGES = [
        replace(edge, rows=rows, dtype=dtype)
        for edge, rows, dtype in itertools.product(EDGES, ("padded", "packed"), ("fp32", "bf16"))
    ]


@contextlib.contextmanager
def patched(edge: Edge) -> Iterator[None]:
    from megatron_train.model import build
    from megatron_train.optim import optimizer

    with pytest.MonkeyPatch.context() as patch:
        if edge.small_buckets:
            small = partial(optimizer.DistributedDataParallelConfig, bucket_size=SMALL_BUCKET)
            patch.setattr(optimizer, "DistributedDataParallelConfig", small)
        if edge.batched_messages:
            patch.setattr(build, "message_exchange", lambda *_, **__: "batched")
        yield


def run_edge(edge: Edge, settings: dict[str, Any], folder: Path) -> Trace:
    """Train two iterations from the weights in `folder`, with the `settings` of one process or of the layout."""
    from megatron.core import parallel_state

    from megatron_train.parity_ranks import trace_run
    from tests.megatron_train.runs import start

    settings = settings | {"train_data_path": [str(folder / "toy")], "train_iters": 2}
    run = start(EDGE_MODELS[edge.model], settings, folder / edge.model / "iter_0000000")
    if edge.small_buckets and settings.get("overlap_grad_reduce") and parallel_state.is_pipeline_first_stage():
        assert all(len(buffer.buckets) > 2 for chunk in run.chunks for buffer in chunk.buffers)
    trace = trace_run(run)
    assert edge.shared is not CLIPPED or min(trace.grad_norms) > 2 * CLIPPED["clip_grad"]
    return trace


def write_references(folder: Path, edges: list[Edge]) -> None:
    """Write the shard, the weights of each model, and the trace of each run in one process."""
    from tests.megatron_train.runs import save, start

    write_shard(folder / "toy", toy_documents(64))
    for name in sorted({edge.model for edge in edges}):
        save(start(EDGE_MODELS[name], {"train_data_path": [str(folder / "toy")]}), folder / name)
    for edge in {edge.reference: edge for edge in edges}.values():
        run_edge(edge, edge.settings(), folder).save(folder / f"{edge.reference}.pt")


def compare_edges(folder: Path, edges: list[Edge]) -> dict[str, Difference]:
    """Run `edges` one after another in this launch, and return their differences, which are the same on every rank."""
    results = {}
    for edge in edges:
        try:
            with patched(edge):
                trace = run_edge(edge, edge.settings() | edge.parallel_settings(), folder)
        except Exception as error:
            raise RuntimeError(f"in {edge}") from error
        results[str(edge)] = compare(trace, Trace.load(folder / f"{edge.reference}.pt"))
    return results


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Difference]:
    """The differences of all edges that this pytest run asks for."""
    folder = tmp_path_factory.mktemp("edges")
    found = (getattr(item, "callspec", None) for item in request.session.items)
    edges = [spec.params["edge"] for spec in found if spec and isinstance(spec.params.get("edge"), Edge)]
    run_distributed(write_references, 1, folder, [*edges, SILENTLY_WRONG], timeout=600)
    results = run_distributed(compare_edges, 2, folder, [SILENTLY_WRONG], timeout=300)[0]
    for world in (2, 4):
        mine = [edge for edge in edges if edge.world_size == world]
        if mine:
            results |= run_distributed(compare_edges, world, folder, mine, timeout=900)[0]
    return results


@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_an_edge_trains_as_one_process(edge: Edge, differences: dict[str, Difference]) -> None:
    assert Result(NamedLayout.of(edge.layout), edge.dtype, differences[str(edge)]).failures() == []


def test_two_interleaved_stages_with_batched_messages_are_wrong(differences: dict[str, Difference]) -> None:
    """parallel/schedule.py therefore does not batch them. When this fails, megatron-core is mended and it may."""
    assert differences[str(SILENTLY_WRONG)].update.relative > 0.01
