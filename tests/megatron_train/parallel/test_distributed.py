from __future__ import annotations

import datetime
import gc
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.config.flags import config_from_settings
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.settings import Parallel, TrainConfig
from megatron_train.model.build import build_model
from megatron_train.optim.optimizer import wrap_model
from megatron_train.parallel import distributed
from megatron_train.parallel.distributed import (
    device,
    init_distributed,
    seed_rank,
    shutdown,
    sum_over_ranks,
    world_size,
)
from megatron_train.parallel.rank_devices import RankDevice
from megatron_train.report.console import is_printing_rank, say, warn
from pretokenizer.config.yaml_config import ConfigError
from tests.megatron_train.models import LLAMA


def test_nccl_connects_at_the_start_and_on_the_ranks_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    calls: list[Any] = []
    monkeypatch.setattr(distributed, "uses_cuda", lambda: True)
    monkeypatch.setattr(distributed, "device_index", lambda: 3)
    monkeypatch.setattr(distributed, "own_device", lambda rank: RankDevice(rank, "host", "NVIDIA H100"))
    monkeypatch.setattr(distributed, "compare_devices", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: calls.append((backend, options)))
    distributed._join_world(datetime.timedelta(minutes=1))
    chosen, (backend, options) = calls
    assert (chosen, backend, options["device_id"]) == (torch.device("cuda", 3), "nccl", torch.device("cuda", 3))


def test_the_world_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match="the environment has WORLD_SIZE=8 but not RANK"):
        world_size()
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1234")
    with pytest.raises(ConfigError, match="RANK=8 is not a rank below WORLD_SIZE=8"):
        world_size()
    monkeypatch.setenv("RANK", "7")
    assert world_size() == 8
    layout = ParallelLayout.planned(Parallel(tensor_model_parallel_size=2, pipeline_model_parallel_size=2), 8)
    assert (layout.tp, layout.pp, layout.dp) == (2, 2, 2)


def test_one_process_without_torchrun(single_process: None, capsys: pytest.CaptureFixture[str]) -> None:
    layout = init_distributed(TrainConfig().parallel, 1234)
    assert (layout.world_size, dist.get_world_size(), is_printing_rank()) == (1, 1, True)
    assert device() == torch.device("cpu")
    assert sum_over_ranks([1.5, -2.0]) == [1.5, -2.0]
    say("one", 2)
    warn("careful")
    assert capsys.readouterr() == ("one 2\n", "warning: careful\n")


def test_the_same_seed_gives_the_same_stream(single_process: None) -> None:
    init_distributed(TrainConfig().parallel, 1234)
    seed_rank(7)
    first = torch.rand(3)
    seed_rank(7)
    assert torch.equal(torch.rand(3), first)
    seed_rank(8)
    assert not torch.equal(torch.rand(3), first)


def two_ranks() -> dict[str, Any]:
    tensor_parallel = config_from_settings({"tensor_model_parallel_size": 2}, "test").parallel
    init_distributed(tensor_parallel, 1234)
    found: dict[str, Any] = {"sum": sum_over_ranks([dist.get_rank() + 1.0, 1e-17]), "prints": is_printing_rank()}
    groups = len(dist.distributed_c10d._world.pg_map)
    for _ in range(2):  # entering a layout again destroys the earlier groups
        init_distributed(tensor_parallel, 1234)
    gc.collect()
    found["groups"] = len(dist.distributed_c10d._world.pg_map) - groups
    found["tensor parallel"] = float(torch.rand(()))
    init_distributed(TrainConfig().parallel, 1234)
    found["data parallel"] = float(torch.rand(()))
    model = wrap_model(build_model(LLAMA, TrainConfig()), TrainConfig())
    found["weights"] = [float(parameter.double().sum()) for parameter in model[0].parameters()]
    return found


def test_two_processes_sum_print_once_and_draw_their_own_numbers() -> None:
    first, second = run_distributed(two_ranks, 2)
    assert (first["sum"], second["sum"]) == ([3.0, 2e-17], [3.0, 2e-17])
    assert (first["prints"], second["prints"]) == (True, False)
    assert (first["groups"], second["groups"]) == (0, 0)
    assert first["tensor parallel"] == second["tensor parallel"]  # the same rows, so the same dropout
    assert first["data parallel"] != second["data parallel"]
    assert first["weights"] == second["weights"]  # although each rank draws its own


def test_a_second_shutdown_has_no_effect(one_rank: None) -> None:
    shutdown()
    assert not dist.is_initialized()
    shutdown()
