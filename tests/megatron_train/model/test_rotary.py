"""Rotary embeddings of packed rows against megatron-core's own, which slices the angles document by document."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb
from megatron.core.models.common.embeddings.yarn_rotary_pos_embedding import (
    _yarn_get_concentration_factor_from_config,
)

from megatron_train.config.settings import Model, TrainConfig
from megatron_train.data.packed_row import PackedRow
from megatron_train.model.build import build_model
from megatron_train.model.rotary import _Rotation
from tests.megatron_train.models import MODELS

BOUNDS = (0, 4, 5, 11)
POSITIONS = [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("scaling", ["none", "linear", "llama3", "yarn"])
@pytest.mark.parametrize("kind", ["llama", "neox_parallel"])
def test_rotated_queries_and_their_gradients_equal_megatron_cores(kind: str, scaling: str, one_rank: None) -> None:
    model = replace(MODELS[kind], rope_scaling_type=scaling, rope_scaling_factor=4.0, num_layers=1)
    model = replace(model, rotary_percent=1.0) if scaling == "yarn" else model
    chunk = build_model(model, TrainConfig())[0]
    cu_seqlens = torch.tensor(BOUNDS, dtype=torch.int32)
    row = PackedRow.of(cu_seqlens, torch.tensor([POSITIONS]), BOUNDS)
    rotary, attention = chunk.rotary_pos_emb, chunk.decoder.layers[0].self_attention
    positions = rotary.get_rotary_seq_len(None, chunk.decoder, torch.zeros(11, 1, 8), chunk.config, row)
    query = torch.randn(11, 1, model.num_attention_heads, model.head_dim, requires_grad=True)
    found = _Rotation.apply(query, rotary(positions), attention.rotation)
    factor = _yarn_get_concentration_factor_from_config(chunk.config)
    expected = apply_rotary_pos_emb(
        query.squeeze(1), rotary.angles(6), chunk.config, cu_seqlens=cu_seqlens, mscale=factor
    )
    assert found.squeeze(1).equal(expected)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((out.view_as(weight) * weight).sum(), query)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_table_has_cosines_and_sines_of_the_angles_in_the_models_precision(one_rank: None) -> None:
    config = replace(TrainConfig(), model=Model(bf16=True))
    rotary = build_model(replace(MODELS["llama"], num_layers=1), config)[0].rotary_pos_emb
    angles, _ = rotary.angles(7).chunk(2, dim=-1)
    assert rotary(7).dtype == torch.bfloat16
    assert rotary(7).equal(torch.cat([angles.cos(), angles.sin()], dim=-1).bfloat16())
