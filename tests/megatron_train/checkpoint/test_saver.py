"""Checkpoints saved in the background equal those saved at once, and errors reach the training."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.checkpoint import saver as saver_module
from megatron_train.checkpoint.folder import CheckpointError, check_folder, staging_folder
from megatron_train.checkpoint.resume import find_start
from megatron_train.checkpoint.saver import CheckpointSaver
from megatron_train.config.flags import config_from_settings
from megatron_train.run import Run
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.megatron_train.runs import save, start

pytestmark = pytest.mark.usefixtures("single_process")
SMALL = replace(LLAMA, num_layers=2)


def settings_in(folder: Path) -> dict[str, Any]:
    prefix = write_shard(folder / "toy", toy_documents(8))
    return {"train_data_path": [prefix], "global_batch_size": 4, "lr": 1e-2, "hidden_dropout": 0.1}


def saver_of(run: Run, folder: Path, async_save: bool = True, **settings: Any) -> CheckpointSaver:
    """Change the checkpoint settings of a run, and return its saver into `folder`."""
    checkpoint = replace(run.config.checkpoint, save=str(folder), async_save=async_save, **settings)
    run.config = replace(run.config, checkpoint=checkpoint)
    return CheckpointSaver(run.config)


def sums(folder: Path) -> dict[str, str]:
    """Return the checksums of a checkpoint by file, except train_config.yaml, which names the folder."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines) if name != "train_config.yaml"}


def sums_both_ways(settings: dict[str, Any], root: Path) -> list[dict[str, str]]:
    """Return the checksums of a save at once, and of a save in a thread while three more iterations run."""
    found = []
    for way in (False, True):
        run = start(SMALL, settings)
        run.step()
        with saver_of(run, root / str(way), way) as saver:
            saver.save(run.contents())
            for _ in range(3):
                run.step()
                saver.check()
        check_folder(root / str(way) / "iter_0000001")
        found.append(sums(root / str(way) / "iter_0000001"))
    return found


def test_the_same_bytes_as_a_save_at_once(tmp_path: Path) -> None:
    at_once, meanwhile = sums_both_ways(settings_in(tmp_path), tmp_path)
    assert meanwhile == at_once
    assert {".metadata", "common.pt", "__0_0.distcp", "rng_state.safetensors"} <= at_once.keys()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event. Writing waits until it is set."""
    gate, write = threading.Event(), saver_module.write_and_publish

    def write_behind_the_gate(*arguments: Any) -> None:
        assert gate.wait(60)
        write(*arguments)

    monkeypatch.setattr(saver_module, "write_and_publish", write_behind_the_gate)
    return gate


def test_what_is_saved_is_the_state_at_the_time_of_the_call(tmp_path: Path, gate: threading.Event) -> None:
    settings = settings_in(tmp_path)
    run = start(SMALL, settings)
    run.step()
    expected = sums(save(run, tmp_path / "expected"))
    with saver_of(run, tmp_path / "save") as saver:
        saver.save(run.contents())
        with torch.no_grad():
            for part in run.optimizer.chained_optimizers:
                for group in part.optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.zero_()
                        part.optimizer.state[parameter]["exp_avg"].fill_(7.0)
            for parameter in run.chunks[0].parameters():
                parameter.data.zero_()
        torch.manual_seed(99)
        assert not (tmp_path / "save" / "iter_0000001").exists()
        gate.set()
    assert sums(tmp_path / "save" / "iter_0000001") == expected


def test_one_save_at_a_time_and_leaving_waits(tmp_path: Path, gate: threading.Event) -> None:
    run = start(SMALL, settings_in(tmp_path))
    root = tmp_path / "save"
    with saver_of(run, root, save_total_limit=1) as saver:
        run.step()
        saver.save(run.contents())
        threading.Timer(0.3, gate.set).start()
        run.step()
        saver.save(run.contents())  # the second save must find the first one published
        assert (root / "latest_checkpointed_iteration.txt").read_text() == "1\n"
    assert (root / "latest_checkpointed_iteration.txt").read_text() == "2\n"
    assert [path.name for path in root.glob("iter_*")] == ["iter_0000002"]
    check_folder(root / "iter_0000002")


def test_hosts_that_gloo_cannot_connect_are_an_error_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(SMALL, settings_in(tmp_path))

    def refuse(**_: Any) -> None:
        raise RuntimeError("[gloo/transport/tcp/device.cc] connect 127.0.1.1: Connection refused")

    monkeypatch.setattr(dist, "new_group", refuse)
    with pytest.raises(CheckpointError, match=r"Connection refused.*set GLOO_SOCKET_IFNAME"):
        saver_of(run, tmp_path / "save")


def test_a_slow_disk_has_two_hours(tmp_path: Path) -> None:
    with saver_of(start(SMALL, settings_in(tmp_path)), tmp_path / "save") as saver:
        assert saver._group is not None
        assert saver._group._get_backend(torch.device("cpu")).options._timeout == saver_module.SLOWEST_WRITE


def test_an_error_of_training_waits_for_the_save_too(tmp_path: Path, gate: threading.Event) -> None:
    run = start(SMALL, settings_in(tmp_path))
    run.step()
    with pytest.raises(KeyboardInterrupt), saver_of(run, tmp_path / "save") as saver:
        saver.save(run.contents())
        threading.Timer(0.3, gate.set).start()
        raise KeyboardInterrupt
    check_folder(tmp_path / "save" / "iter_0000001")


def no_room_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron_train.checkpoint import write as checkpoint_writer

    write = checkpoint_writer._write_item

    def full(transforms: Any, stream: Any, data: Any, item: Any, file: str, **options: Any) -> Any:
        if file == name:
            raise OSError(28, "No space left on device", file)
        return write(transforms, stream, data, item, file, **options)

    monkeypatch.setattr(checkpoint_writer, "_write_item", full)


@pytest.mark.parametrize("async_save", [False, True])
def test_a_full_disk_is_raised_in_training_and_the_last_good_checkpoint_stays(
    async_save: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(SMALL, settings_in(tmp_path))
    run.step()
    root = tmp_path / "save"
    good = sums(save(run, root))
    run.step()
    with monkeypatch.context() as patched:
        no_room_for("__0_0.distcp", patched)
        expected = r"save/iter_0000002: could not be saved: rank 0: OSError: \[Errno 28\] No space left on device"
        with pytest.raises(CheckpointError, match=expected), saver_of(run, root, async_save) as saver:
            saver.save(run.contents())
    assert sorted(path.name for path in root.iterdir()) == ["iter_0000001", "latest_checkpointed_iteration.txt"]
    assert sums(root / "iter_0000001") == good
    with saver_of(run, root, async_save) as saver:
        saver.save(run.contents())
    check_folder(root / "iter_0000002")


def test_a_failure_is_raised_by_the_next_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(SMALL, settings_in(tmp_path))
    run.step()
    no_room_for("__0_0.distcp", monkeypatch)
    with pytest.raises(CheckpointError, match="No space left"), saver_of(run, tmp_path / "save") as saver:
        saver.save(run.contents())
        thread = saver._thread
        assert thread is not None
        thread.join()
        saver.check()
        pytest.fail("check() said nothing")


def run_two_processes(settings: dict[str, Any], root: Path) -> tuple[list[dict[str, str]], str, list[str | None]]:
    """Return sums_both_ways, this rank's error when the disk of rank 1 is full, and the checkpoints chosen on resume.

    For the last item, each file of the newest checkpoint is damaged in turn.
    """
    settings = settings | {"tensor_model_parallel_size": 2}
    found = sums_both_ways(settings, root)
    run = start(SMALL, settings)
    run.step()
    with pytest.MonkeyPatch.context() as patched:
        if dist.get_rank() == 1:
            no_room_for("__1_0.distcp", patched)
        with pytest.raises(CheckpointError) as error, saver_of(run, root / "full") as saver:
            saver.save(run.contents())
    assert not staging_folder(root / "full", 1).exists()
    save(run, root / "damaged")
    run.step()
    newest = save(run, root / "damaged")
    starts = [started_from(root / "damaged", newest / name) for name in sorted(sums(newest))]
    return found, str(error.value), starts


def started_from(root: Path, damaged: Path) -> str | None:
    config = config_from_settings({"save": str(root)}, "test")
    original = damaged.read_bytes()
    dist.barrier()
    if dist.get_rank() == 0:
        damaged.write_bytes(original + b" ")
    dist.barrier()
    start = find_start(config)
    dist.barrier()
    if dist.get_rank() == 0:
        damaged.write_bytes(original)
    return start.folder.name if start else None


def test_two_tensor_parallel_processes(tmp_path: Path) -> None:
    for (at_once, meanwhile), message, starts in run_distributed(run_two_processes, 2, settings_in(tmp_path), tmp_path):
        assert meanwhile == at_once
        assert {"__0_0.distcp", "__1_0.distcp"} <= at_once.keys()
        assert "iter_0000001: could not be saved: rank 1: OSError: [Errno 28] No space left" in message
        assert len(starts) > 6
        assert set(starts) == {"iter_0000001"}
