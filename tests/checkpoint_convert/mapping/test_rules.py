"""Each mapping rule gives the expected tensors for hand-written ones."""

from __future__ import annotations

import torch

from checkpoint_convert.mapping.rules import Direct, FusedGateUp, FusedQKV, expand
from checkpoint_convert.tensors.tensor import joined
from megatron_train.config.model_config import ModelConfig


def config(heads: int, groups: int, channels: int) -> ModelConfig:
    return ModelConfig(
        family="llama",
        num_layers=2,
        hidden_size=heads * channels,
        ffn_hidden_size=4,
        num_attention_heads=heads,
        num_query_groups=groups,
        kv_channels=channels,
        vocab_size=8,
        max_position_embeddings=8,
    )


def column(*values: int) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


def test_fused_qkv_orders_rows_group_by_group() -> None:
    # 4 query heads of 2 channels in 2 groups: the rows are q0 q1 k0 v0, then q2 q3 k1 v1.
    model = config(heads=4, groups=2, channels=2)
    q, k, v = column(0, 1, 10, 11, 20, 21, 30, 31), column(100, 101, 110, 111), column(200, 201, 210, 211)
    rule = FusedQKV("qkv", "{q,k,v}")

    fused = joined(rule.to_megatron([q, k, v], model))

    expected = [0, 1, 10, 11, 100, 101, 200, 201, 20, 21, 30, 31, 110, 111, 210, 211]
    assert fused.flatten().tolist() == expected
    assert [joined(parts).flatten().tolist() for parts in rule.to_other(fused, model)] == [
        [0, 1, 10, 11, 20, 21, 30, 31],
        [100, 101, 110, 111],
        [200, 201, 210, 211],
    ]


def test_fused_qkv_takes_biases() -> None:
    model = config(heads=2, groups=1, channels=1)
    rule = FusedQKV("qkv", "{q,k,v}")

    fused = joined(rule.to_megatron([torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([4])], model))

    assert fused.tolist() == [1, 2, 3, 4]
    assert [joined(parts).tolist() for parts in rule.to_other(fused, model)] == [[1, 2], [3], [4]]


def test_fused_gate_up_puts_gate_first() -> None:
    model = config(heads=2, groups=2, channels=1)
    rule = FusedGateUp("fc1", "{gate,up}")

    fused = joined(rule.to_megatron([column(1, 2), column(3, 4)], model))

    assert fused.flatten().tolist() == [1, 2, 3, 4]
    assert [joined(parts).flatten().tolist() for parts in rule.to_other(fused, model)] == [[1, 2], [3, 4]]


def test_nothing_is_copied() -> None:
    model = config(heads=4, groups=2, channels=2)
    fused = torch.arange(16).unsqueeze(1)

    for parts in FusedQKV("qkv", "{q,k,v}").to_other(fused, model):
        assert all(part.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr() for part in parts)


def test_others_spells_out_braces() -> None:
    rule = FusedQKV("decoder.layers.{layer}.qkv", "model.layers.{layer}.{q,k,v}_proj.weight")

    assert rule.at(3).megatron == "decoder.layers.3.qkv"
    assert rule.at(3).others == (
        "model.layers.3.q_proj.weight",
        "model.layers.3.k_proj.weight",
        "model.layers.3.v_proj.weight",
    )


def test_expand_keeps_the_order_of_a_forward_pass() -> None:
    rules = (
        Direct("embedding", "e"),
        Direct("layers.{layer}.a", "{layer}.a"),
        Direct("layers.{layer}.b", "{layer}.b"),
        Direct("norm", "n"),
    )

    names = [rule.megatron for rule in expand(rules, 2)]

    assert names == ["embedding", "layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b", "norm"]
