from __future__ import annotations

import datetime
import threading

import pytest
import torch.distributed as dist

from megatron_train.parallel import rank_devices
from megatron_train.parallel.rank_devices import RankDevice, compare_devices, describe_devices
from pretokenizer.config.yaml_config import ConfigError

H100 = "NVIDIA H100 80GB HBM3"


def compare(names: list[str | None]) -> list[str]:
    """Return the error of each rank, or an empty text. The ranks are threads that share one store."""
    store, errors = dist.HashStore(), [""] * len(names)

    def rank(number: int) -> None:
        own = RankDevice(number, f"node{number}", names[number])
        try:
            compare_devices(store, own, len(names), datetime.timedelta(seconds=20))
        except ConfigError as error:
            errors[number] = str(error)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("names", [[None], [None, None, None], [H100, H100, "NVIDIA A100-SXM4-80GB"]])
def test_one_kind_of_device_is_accepted(names: list[str | None]) -> None:
    assert compare(names) == [""] * len(names)


def test_a_node_without_a_driver_is_an_error_on_every_rank() -> None:
    message = f"rank 0 on node0 uses {H100}, but rank 2 on node2 uses the CPU: all ranks need the same kind of device"
    errors = compare([H100, H100, None])
    assert len(errors) == 3
    assert all(error.startswith(message) for error in errors)


def test_a_rank_that_never_connects_is_an_error() -> None:
    own = RankDevice(0, "node0", None)
    with pytest.raises(TimeoutError, match=r"ranks \[1\] did not connect within --distributed_timeout_minutes"):
        compare_devices(dist.HashStore(), own, 2, datetime.timedelta(seconds=0.1))


def test_the_devices_are_described(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_devices() == "1 x CPU (gloo)"
    monkeypatch.setattr(rank_devices, "device_name", lambda: H100)
    assert describe_devices() == f"1 x {H100} (nccl)"
