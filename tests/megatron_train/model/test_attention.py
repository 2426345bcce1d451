from __future__ import annotations

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from megatron_train.model.attention import TorchAttention

pytestmark = pytest.mark.usefixtures("single_process")


def attention(window: int | None = None) -> TorchAttention:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        attention_dropout=0.0,
        window_size=(window - 1, 0) if window else None,
        use_cpu_initialization=True,
    )
    return TorchAttention(config, 1, AttnMaskType.causal, "self")


def inputs(length: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(length, rows, 4, 8, generator=generator),
        torch.randn(length, rows, 2, 8, generator=generator),
        torch.randn(length, rows, 2, 8, generator=generator),
    )


def by_hand(query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
    """Softmax over what each position may see, one head at a time; [s, h, d] and [s, g, d] -> [s, h * d]."""
    heads = []
    for head in range(4):
        k, v = key[:, head // 2], value[:, head // 2]
        out = []
        for position in range(query.shape[0]):
            first = max(0, position - window + 1) if window else 0
            scores = k[first : position + 1] @ query[position, head] / 8**0.5
            out.append(torch.softmax(scores, 0) @ v[first : position + 1])
        heads.append(torch.stack(out))
    return torch.stack(heads, 1).reshape(query.shape[0], -1)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 50])
def test_rows_are_causal_with_grouped_queries_and_a_window(window: int | None) -> None:
    query, key, value = inputs(7, 2)
    found = attention(window)(query, key, value, None)
    assert found.shape == (7, 2, 32)
    for row in range(2):
        expected = by_hand(query[:, row], key[:, row], value[:, row], window)
        torch.testing.assert_close(found[:, row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [None, 2])
def test_packed_documents_do_not_see_one_another(window: int | None) -> None:
    query, key, value = (x[:, 0] for x in inputs(9, 1))
    bounds = torch.tensor([0, 4, 5, 9], dtype=torch.int32)
    packed = PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, max_seqlen_q=4, max_seqlen_kv=4
    )
    found = attention(window)(query, key, value, None, packed_seq_params=packed)
    expected = [by_hand(query[a:b], key[a:b], value[a:b], window) for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(found.reshape(9, -1), torch.cat(expected), rtol=1e-5, atol=1e-6)
