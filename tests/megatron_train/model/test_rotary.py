"""The angles of packed rows equal megatron-core's, which cuts them document by document."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb

from megatron_train.config.settings import TrainConfig
from megatron_train.data.packed_row import PackedRow
from megatron_train.model.build import build_model
from tests.megatron_train.models import MODELS

BOUNDS = (0, 4, 5, 11)
POSITIONS = [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("scaling", ["none", "linear", "llama3", "yarn"])
@pytest.mark.parametrize("kind", ["llama", "neox_parallel"])
def test_rotated_queries_equal_megatron_cores(kind: str, scaling: str, one_rank: None) -> None:
    model = replace(MODELS[kind], rope_scaling_type=scaling, rope_scaling_factor=4.0, num_layers=1)
    model = replace(model, rotary_percent=1.0) if scaling == "yarn" else model
    chunk = build_model(model, TrainConfig())[0]
    cu_seqlens = torch.tensor(BOUNDS, dtype=torch.int32)
    row = PackedRow.of(cu_seqlens, torch.tensor([POSITIONS]), BOUNDS)
    rotary = chunk.rotary_pos_emb
    positions = rotary.get_rotary_seq_len(None, chunk.decoder, torch.zeros(11, 1, 8), chunk.config, row)
    query = torch.randn(11, model.num_attention_heads, model.head_dim)
    found = apply_rotary_pos_emb(query.unsqueeze(1), rotary(positions), chunk.config)
    expected = apply_rotary_pos_emb(query, rotary.angles(6), chunk.config, cu_seqlens=cu_seqlens)
    assert found.squeeze(1).equal(expected)
    assert rotary(7).equal(rotary.angles(7))
