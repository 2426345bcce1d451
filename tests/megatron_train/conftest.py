"""Fixtures of the trainer's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def single_process() -> Iterator[None]:
    """Prepare megatron-core in the test process. A toy run starts its own process groups of one rank."""
    from megatron_train.parallel.device import install
    from megatron_train.parallel.distributed import freeze_imports, shutdown

    install()
    freeze_imports()
    yield
    shutdown()


@pytest.fixture
def one_rank(single_process: None) -> None:
    """Start the process groups of one rank in the test process, unless an earlier test did."""
    from megatron_train.config.settings import TrainConfig
    from tests.megatron_train.runs import enter_layout

    enter_layout(TrainConfig())
