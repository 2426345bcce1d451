"""Norms have megatron-core's names on disk, and checkpoints with the earlier names still load."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing

from megatron_train.checkpoint.folder import MODEL_CONFIG, check_folder
from megatron_train.config.model_config import ModelConfig
from megatron_train.config.norm_names import module_name, stock_name
from tests.conftest import toy_documents, write_shard
from tests.megatron_train.runs import save, start

pytestmark = pytest.mark.usefixtures("single_process")
OLD = Path(__file__).parent / "data" / "norms_under_own_names.tar.xz"
"""iter_0000002 of a tiny Llama with its optimizer, saved by the trainer of 2026-11-29, before it used stock names."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    check_folder(tmp_path / "iter_0000002")
    return tmp_path / "iter_0000002"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = dist_checkpointing.load_plain_tensors(str(folder))
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}


def test_an_old_checkpoint_resumes_and_saves_stock_names(old: Path, tmp_path: Path) -> None:
    data = write_shard(tmp_path / "toy", toy_documents(8))
    settings = {"train_data_path": [data], "global_batch_size": 2, "lr": 1e-2}
    run = start(ModelConfig.load(old / MODEL_CONFIG), settings, old, resume=True)
    assert run.state.iteration == 2

    before, after = tensors(old), tensors(save(run, tmp_path / "new"))

    assert "decoder.layers.self_attention.linear_qkv.layer_norm_weight" in after
    assert "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.layer_norm_weight" in after
    assert {stock_name(key) for key in before} == set(after)
    assert not any("input_layernorm" in key or "pre_mlp" in key for key in after)
    assert all(torch.equal(value, after[stock_name(key)]) for key, value in before.items())
    run.step()


def test_names_go_there_and_back() -> None:
    assert (
        stock_name("decoder.layers.0.input_layernorm.bias")
        == "decoder.layers.0.self_attention.linear_qkv.layer_norm_bias"
    )
    assert module_name("decoder.layers.mlp.linear_fc1.layer_norm_weight") == "decoder.layers.pre_mlp_layernorm.weight"
    assert stock_name("decoder.final_layernorm.weight") == "decoder.final_layernorm.weight"
