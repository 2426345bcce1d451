"""The parts of saving that a whole save does not show; saves themselves are in test_checkpoint.py and test_saver.py."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from megatron_train.checkpoint.piece_exchange import PieceExchange, sources_of
from megatron_train.checkpoint.save_load import sharded_state_dict
from megatron_train.checkpoint.write import _on_cpu, plan_tensors
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.models import LLAMA
from tests.megatron_train.runs import start


def test_a_kept_copy_shares_no_memory() -> None:
    """megatron-core copies views of its buffers only; a tensor that is a whole buffer would go on changing."""
    tensor = torch.arange(4.0)
    copy = _on_cpu(tensor, keep_copy=True)
    tensor.zero_()
    assert copy.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert _on_cpu(tensor, keep_copy=False) is tensor


def test_a_plan_holds_no_memory_of_the_run(tmp_path: Path, single_process: None) -> None:
    prefix = write_shard(tmp_path / "toy", toy_documents(8))
    run = start(replace(LLAMA, num_layers=2), {"train_data_path": [prefix]})
    run.step()
    (tmp_path / "staging").mkdir()
    state_dict = sharded_state_dict(run.chunks, run.optimizer)
    connect = partial(PieceExchange, run.optimizer, sources_of(state_dict["optimizer"]))
    plan = plan_tensors(state_dict, tmp_path / "staging", keep_copies=True, connect=connect)
    adam = [part.optimizer for part in run.optimizer.chained_optimizers]
    live = [parameter.data for chunk in run.chunks for parameter in chunk.parameters()]
    live += [value for each in adam for state in each.state.values() for value in state.values()]
    live += [parameter.data for each in adam for group in each.param_groups for parameter in group["params"]]
    ours = {tensor.untyped_storage().data_ptr() for tensor in live}
    kept = [tensor for file in plan.files for _, tensor in file.tensors]
    assert len(kept) > 30
    assert plan.exchange is None
    assert not any(tensor.is_meta for tensor in kept)
    assert not ours & {tensor.untyped_storage().data_ptr() for tensor in kept}
