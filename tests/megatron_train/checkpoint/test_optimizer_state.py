"""The optimizer's state is saved and loaded in pieces, with the same files as megatron-core, which gathers it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from megatron_train.certificate.local_ranks import run_distributed
from megatron_train.checkpoint import optimizer_state, save_load
from megatron_train.checkpoint.optimizer_state import pieces_of
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA, MODELS
from tests.megatron_train.runs import save, start

SMALL = replace(LLAMA, num_layers=2)


def sums(folder: Path) -> str:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return "\n".join(line for line in lines if "train_config.yaml" not in line)  # contains the folder's name


def save_as_megatron_core_does(run: Any, folder: Path) -> Path:
    """Gather the whole state on every rank, and let megatron-core save it."""

    def gathered(optimizer: Any, model_state: Any) -> Any:
        metadata = {
            "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
            "distrib_optim_sharding_type": "fully_reshardable",
            "chained_optim_avoid_prefix": True,
        }
        return optimizer.sharded_state_dict(model_state, is_loading=False, metadata=metadata)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(save_load, "sharded_optimizer_state", gathered)
        patched.setattr(save_load, "sources_of", lambda _: {})
        return save(run, folder)


def state_of(run: Any) -> list[torch.Tensor]:
    (part,) = run.optimizer.chained_optimizers
    tensors = [part._get_main_param_and_optimizer_states(parameter) for parameter in pieces_of(part)]
    return [each[key].clone() for each in tensors for key in optimizer_state.STATE_KEYS]


def both_ways(cases: list[tuple[str, dict[str, Any]]], root: Path) -> list[dict[str, bool]]:
    """Return for each case whether files and loaded state are equal, and whether this rank reads only a part."""
    found = []
    for number, (kind, settings) in enumerate(cases):
        model = replace(MODELS[kind], num_layers=2)
        run = start(model, settings)
        run.step()
        folder = save(run, root / f"{number}")
        expected = save_as_megatron_core_does(run, root / f"{number}-core")
        dist.barrier()
        other = start(model, settings | {"seed": 7}, folder, resume=True)
        (part,) = other.optimizer.chained_optimizers
        found.append(
            {
                "equal files": sums(folder) == sums(expected),
                "equal state": all(map(torch.equal, state_of(other), state_of(run))),
                "part": len(pieces_of(part)) < sum(len(buffer.param_index_map) for buffer in part.buffers),
            }
        )
    return found


def settings_in(folder: Path) -> dict[str, Any]:
    return {"train_data_path": [write_shard(folder / "toy", toy_documents(8))], "global_batch_size": 4, "lr": 1e-2}


def test_four_data_parallel_ranks_write_the_same_files_from_pieces(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("llama", settings),
        ("llama", settings | {"bf16": True}),
        ("falcon_7b", settings | {"overlap_grad_reduce": True}),
        ("neox_parallel", settings | {"tensor_model_parallel_size": 2}),
        ("llama", settings | {"pipeline_model_parallel_size": 2}),
    ]
    for rank in run_distributed(both_ways, 4, cases, tmp_path):
        assert rank == [{"equal files": True, "equal state": True, "part": True}] * len(cases)


def test_one_rank_saves_from_its_own_memory(tmp_path: Path, single_process: None) -> None:
    found = both_ways([("llama", settings_in(tmp_path))], tmp_path)
    assert found == [{"equal files": True, "equal state": True, "part": False}]


def test_loading_holds_one_kind_of_state_at_a_time_and_nothing_twice(
    tmp_path: Path, single_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(SMALL, settings_in(tmp_path))
    run.step()
    folder = save(run, tmp_path / "saved")
    stock_load, allocated = save_load.dist_checkpointing.load, []

    def load(state_dict: Any, *arguments: Any, **options: Any) -> Any:
        own = {parameter.data_ptr() for chunk in run.chunks for parameter in chunk.parameters()}
        tensors = [v.data for v in nested_values(state_dict) if isinstance(v, ShardedTensor | ShardedTensorFactory)]
        allocated.append(sum(tensor.numel() for tensor in tensors if tensor.data_ptr() not in own))
        return stock_load(state_dict, *arguments, **options)

    def cat(*_: Any, **__: Any) -> None:
        raise AssertionError("a second copy of a weight")

    with monkeypatch.context() as patched:
        patched.setattr(save_load.dist_checkpointing, "load", load)
        patched.setattr(torch, "cat", cat)
        save_load.load_weights(folder, run.chunks, run.optimizer)
    parameters = sum(parameter.numel() for parameter in run.chunks[0].parameters())
    assert allocated == [0, parameters, parameters, parameters]
