from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_train.parallel import device
from pretokenizer.config.yaml_config import ConfigError
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.megatron_train.runs import start
from tests.paths import ROOT


@pytest.mark.parametrize(
    ("wanted", "devices", "ranks", "expected"),
    [
        ("auto", 0, 1, False),
        ("auto", 1, 1, True),
        ("auto", 1, 2, False),
        ("auto", 8, 8, True),
        ("cpu", 8, 8, False),
        ("cuda", 2, 2, True),
    ],
)
def test_cuda_is_used_where_each_rank_has_a_device(
    monkeypatch: pytest.MonkeyPatch, wanted: str, devices: int, ranks: int, expected: bool
) -> None:
    claim_cuda_devices(monkeypatch, devices)
    monkeypatch.setenv("OASST_DEVICE", wanted)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert device.uses_cuda() is expected


def test_a_device_that_cannot_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_cuda_devices(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OASST_DEVICE", "cuda")
    with pytest.raises(ValueError, match=r"--device cuda: .* 1 usable CUDA devices for 2 ranks"):
        device.uses_cuda()
    monkeypatch.setenv("OASST_DEVICE", "gpu")
    with pytest.raises(ValueError, match="OASST_DEVICE=gpu: choose auto, cpu or cuda"):
        device.uses_cuda()


def test_the_flag_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OASST_DEVICE", "cuda")
    device.install("cpu")
    assert os.environ["OASST_DEVICE"] == "cpu"
    device.install()
    assert os.environ["OASST_DEVICE"] == "cpu"


def test_no_other_file_chooses_the_device() -> None:
    """The demo and the tests set OASST_DEVICE to cpu, on machines with a GPU too."""
    folders = ("pretokenizer", "megatron_train", "checkpoint_convert", "examples", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    asking = {path.relative_to(ROOT).as_posix() for path in files if "cuda.is_available" in path.read_text()}
    # PhaseTimer asks when device.py has already made the answer that of OASST_DEVICE.
    assert asking == {"megatron_train/parallel/device.py", "megatron_train/report/phases.py"}


def test_too_few_devices_for_auto_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim_cuda_devices(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for wanted in ("cpu", "auto"):
        monkeypatch.setenv("OASST_DEVICE", wanted)
        device.warn_of_unused_devices()
    assert capsys.readouterr().err == "warning: this machine has 1 CUDA devices for 2 ranks, so the run uses the CPU\n"


@pytest.mark.parametrize(
    ("devices", "local_rank", "gpus_per_task", "expected"),
    [(8, 3, None, 3), (1, 3, "1", 0), (1, 3, "a100:1", 0), (1, 0, None, 0)],
)
def test_a_rank_takes_its_own_device(
    monkeypatch: pytest.MonkeyPatch, devices: int, local_rank: int, gpus_per_task: str | None, expected: int
) -> None:
    """Slurm may show each rank only one device, whatever its local rank is."""
    claim_cuda_devices(monkeypatch, devices)
    monkeypatch.setenv("OASST_DEVICE", "auto")
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8" if gpus_per_task else str(devices))
    if gpus_per_task:
        monkeypatch.setenv("SLURM_GPUS_PER_TASK", gpus_per_task)
    assert device.uses_cuda()
    assert device.device_index() == expected


def test_a_local_rank_without_a_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_cuda_devices(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="LOCAL_RANK 2, but this machine has 2 CUDA devices"):
        device.device_index()


def test_on_the_cpu_a_cuda_device_of_the_machine_is_never_touched() -> None:
    """Train in a fresh process in which torch claims a CUDA device that fails at any real use."""
    program = (
        "import torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "torch.cuda.device_count = lambda: 1\n"
        "from megatron_train.parallel.device import install\n"
        "install()\n"
        "from megatron_train.config.settings import Parallel\n"
        "from megatron_train.parallel.distributed import device, init_distributed, shutdown, sum_over_ranks\n"
        "init_distributed(Parallel(), seed=1)\n"
        "import torch.distributed as dist\n"
        "assert dist.get_backend() == 'gloo' and device().type == 'cpu' and not torch.cuda.is_available()\n"
        "assert sum_over_ranks([2.0]) == [2.0] and torch.zeros(1, device='cuda').device.type == 'cpu'\n"
        "shutdown()\n"
    )
    environment = {**os.environ, "OASST_DEVICE": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "error", [pytest.param("ImportError('undefined symbol')", marks=pytest.mark.long), "OSError('libcudart.so.12')"]
)
def test_a_broken_transformer_engine_does_not_end_a_run_without_it(tmp_path: Path, error: str) -> None:
    (tmp_path / "transformer_engine").mkdir()
    (tmp_path / "transformer_engine/__init__.py").write_text(f"raise {error}")
    program = (
        "from megatron_train.parallel.device import install\n"
        "install()\n"
        "import megatron.core.transformer.transformer_block, megatron.core.tensor_parallel.random\n"
        "from megatron_train.config.flags import config_from_settings\n"
        "from megatron_train.model.transformer_engine import check_transformer_engine\n"
        "check_transformer_engine(config_from_settings({'transformer_impl': 'transformer_engine'}, 'test'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert "warning: transformer_engine is installed but cannot be imported (" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("pretokenizer.config.yaml_config.ConfigError: transformer_impl")


def claim_cuda_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_another_megatron_core_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.17.0")
    with pytest.raises(RuntimeError, match=r"megatron-core 0\.17\.0 .* pip install megatron-core==0\.16\.1"):
        device.install()


def test_the_accepted_versions_are_the_pinned_one_and_that_of_make_engines() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"megatron-core=={device.MEGATRON_CORE_VERSION}" in project["dependencies"]
    engines = re.findall(r"^ENGINE \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert engines == list(device.OTHER_MEGATRON_CORE_VERSIONS)


def test_notices_of_megatron_core_are_silent_and_its_warnings_are_not(caplog: pytest.LogCaptureFixture) -> None:
    device.quiet_known_warnings()
    logger = logging.getLogger("megatron.core.models.gpt.gpt_model")
    logger.warning("GPTModel IS DEPRECATED. GPTModel is only accepting critical bug fixes")
    logger.warning("the vocabulary is empty")
    assert [record.message for record in caplog.records] == ["the vocabulary is empty"]


def test_cuda_calls_of_megatron_core_land_on_the_cpu(single_process: None) -> None:
    assert torch.zeros(2, device="cuda").device.type == "cpu"
    assert torch.zeros(2, device=torch.cuda.current_device()).device.type == "cpu"
    x = torch.zeros(2)
    assert x.cuda() is x
    assert x.type() == "torch.cuda.FloatTensor"


def test_a_data_parallel_group_of_one_rank_exchanges_nothing(single_process: None, tmp_path: Path) -> None:
    called = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    run = start(LLAMA, {"train_data_path": [write_shard(tmp_path / "toy", toy_documents(8))]})
    with Calls():
        run.step()
    assert "aten.mm.default" in called
    assert [name for name in called if name.startswith("c10d") and ("gather" in name or "scatter" in name)] == []


def test_the_stand_ins_for_torch_cuda_are_different_functions(single_process: None) -> None:
    """torch.compile tells functions apart by identity. Of two names for one function it refuses the second."""
    stand_ins = {
        name: function
        for name, function in vars(torch.cuda).items()
        if getattr(function, "__module__", None) == device.__name__
    }
    assert {"current_device", "current_stream", "empty_cache", "is_available", "synchronize"} <= stand_ins.keys()
    assert len(set(map(id, stand_ins.values()))) == len(stand_ins)


def test_the_tracker_keeps_streams_apart_and_restores_them(single_process: None) -> None:
    from megatron.core.tensor_parallel import random

    torch.manual_seed(1)
    tracker = random.CudaRNGStatesTracker()
    tracker.add("model-parallel-rng", 5)
    tracker.add("other", 6)
    before = torch.get_rng_state()
    with tracker.fork("model-parallel-rng"):
        first = torch.rand(2)
        with tracker.fork("other"):
            other = torch.rand(2)
        second = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(4), torch.cat([first, second]))
    torch.manual_seed(6)
    assert torch.equal(torch.rand(2), other)
