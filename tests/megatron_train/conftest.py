"""Fixtures of the trainer's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def single_process() -> Iterator[None]:
    """Prepare megatron-core in the test process. A toy run starts its own process groups of one rank."""
    from megatron_train.parallel.device import install

    install()
    gc.freeze()  # without the imports, a collection takes no time
    yield
    from megatron_train.parallel.distributed import shutdown

    shutdown()


@pytest.fixture
def one_rank(single_process: None) -> None:
    """Start the process groups of one rank in the test process, unless an earlier test did."""
    from megatron_train.config.settings import TrainConfig
    from tests.megatron_train.runs import enter_layout

    enter_layout(TrainConfig())
