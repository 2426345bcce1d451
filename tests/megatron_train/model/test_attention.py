from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_train.data.packed_row import PackedRow
from megatron_train.model import attention as attention_module
from megatron_train.model.attention import TorchAttention, choose_kernel

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
    """Return attention [s, h * d] from queries [s, h, d] and keys, values [s, g, d], head by head and row by row."""
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


BOUNDS = (0, 4, 5, 9)


def packed_row() -> PackedRow:
    return PackedRow.of(torch.tensor(BOUNDS, dtype=torch.int32), torch.tensor([[0, 1, 2, 3, 0, 0, 1, 2, 3]]), BOUNDS)


def documents_by_hand(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    spans = itertools.pairwise(BOUNDS)
    return torch.cat([by_hand(query[a:b, 0], key[a:b, 0], value[a:b, 0], window) for a, b in spans])


@pytest.mark.parametrize("window", [None, 2])
def test_packed_documents_do_not_see_one_another(window: int | None) -> None:
    query, key, value = inputs(9, 1)
    found = attention(window)(query, key, value, None, packed_seq_params=packed_row())
    assert found.shape == (9, 1, 32)
    torch.testing.assert_close(found[:, 0], documents_by_hand(query, key, value, window), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [2, 3, 5])
def test_a_window_over_several_blocks_of_queries(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mask is larger than a block, so memory grows with the length of the row and not with its square."""
    masks: list[tuple[int, ...]] = []
    mask_of = attention_module.window_mask
    monkeypatch.setattr(attention_module, "QUERIES_PER_BLOCK", 3)
    monkeypatch.setattr(attention_module, "window_mask", lambda *a: masks.append((mask := mask_of(*a)).shape) or mask)
    query, key, value = inputs(20, 1)
    found = attention(window)(query, key, value, None)
    torch.testing.assert_close(found[:, 0], by_hand(query[:, 0], key[:, 0], value[:, 0], window), rtol=1e-5, atol=1e-6)
    assert len(masks) == -(-20 // max(3, window))
    assert max(rows * columns for rows, columns in masks) <= max(3, window) * (max(3, window) + window)


AMPERE, VOLTA = (8, 0), (7, 0)
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("dtype", "head_size", "capability", "dropout", "packed", "window", "expected"),
    [
        (BF16, 128, AMPERE, 0.0, True, False, "varlen"),
        (FP16, 64, (9, 0), 0.0, True, True, "varlen"),
        (BF16, 128, AMPERE, 0.0, False, True, "varlen"),
        (BF16, 128, AMPERE, 0.0, False, False, "rows"),
        (FP32, 128, AMPERE, 0.0, True, False, "documents"),
        (FP32, 128, AMPERE, 0.0, False, True, "blocks"),
        (FP16, 128, VOLTA, 0.0, True, False, "documents"),
        (FP16, 128, VOLTA, 0.0, False, True, "blocks"),
        (BF16, 128, AMPERE, 0.1, True, False, "documents"),
        (BF16, 128, AMPERE, 0.1, False, True, "blocks"),
        (BF16, 264, AMPERE, 0.0, True, False, "documents"),
        (BF16, 100, AMPERE, 0.0, True, False, "documents"),
        (BF16, 128, None, 0.0, True, False, "documents"),
        (BF16, 128, None, 0.0, False, False, "rows"),
    ],
)
def test_varlen_attention_is_used_only_where_torchs_kernel_works(
    dtype: torch.dtype, head_size: int, capability: Any, dropout: float, packed: bool, window: bool, expected: str
) -> None:
    assert choose_kernel(dtype, head_size, capability, dropout, packed, window) == expected


@pytest.mark.parametrize(("packed", "window"), [(True, None), (True, 2), (False, 3)])
def test_the_varlen_kernel_gets_its_own_shapes(
    packed: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference on the CPU with the same arguments stands in for torch's kernel, which needs a GPU."""

    def reference(
        q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, kv: Tensor, longest: int, *_: Any, **o: Any
    ) -> Tensor:
        assert bounds is kv
        assert bounds.dtype == torch.int32
        assert longest == int(bounds.diff().max())
        assert o["enable_gqa"] is True
        assert o["window_size"] == ((window - 1, 0) if window else (-1, 0))
        spans = itertools.pairwise(bounds.tolist())
        out = [by_hand(q[a:b].float(), k[a:b].float(), v[a:b].float(), window) for a, b in spans]
        return torch.cat(out).reshape(q.shape).to(q.dtype)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference)
    module = attention(window)
    query, key, value = (x.bfloat16() for x in inputs(9, 1 if packed else 2))
    expected = module(query, key, value, None, packed_seq_params=packed_row() if packed else None)
    module.capability = AMPERE
    found = module(query, key, value, None, packed_seq_params=packed_row() if packed else None)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_no_gradient_of_a_document_is_as_long_as_the_row(single_process: None) -> None:
    names: list[str] = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func._schema.name.split("::")[1])
            return func(*args, **(kwargs or {}))

    tensors = [x.requires_grad_() for x in inputs(9, 1)]
    with Names():
        attention()(*tensors, None, packed_seq_params=packed_row()).sum().backward()
    assert names.count("_scaled_dot_product_flash_attention_for_cpu") == len(BOUNDS) - 1
    assert not {"slice_backward", "zeros", "add"} & set(names)
