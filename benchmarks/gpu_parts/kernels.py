"""Compare attention, SwiGLU, the chunked loss and AdamW with the same formulas in fp64, forward and backward.

A figure is the largest difference, divided by the largest value of the fp64 result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from benchmarks.gpu_parts.record import Record
from megatron_train.config.settings import Parallel
from megatron_train.data.packed_row import PackedRow
from megatron_train.model.attention import TorchAttention, choose_kernel
from megatron_train.model.chunked_loss import VocabularyRows, weighted_loss_sum
from megatron_train.model.swiglu import GatedSilu
from megatron_train.optim.adam import FusedLayoutAdam
from megatron_train.parallel.device import compute_capability, install
from megatron_train.parallel.distributed import device, init_distributed

LIMITS = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-4}
"""Dtype -> largest relative difference that passes. The dtypes round numbers to 2^-8, 2^-11 and 2^-24."""


@dataclass(frozen=True)
class AttentionCase:
    """The shape, dtype and mask of one attention call that is compared with fp64."""

    head_size: int
    dtype: torch.dtype
    window: int | None
    """Sliding window in tokens, or None for none."""
    bounds: tuple[int, ...] | None
    """First position of each document of a packed row, and the row's end. None for padded rows."""
    length: int
    """Positions of a row."""
    heads: int = 4
    groups: int = 2

    def __str__(self) -> str:
        rows = "packed" if self.bounds else "padded"
        window = f", window {self.window}" if self.window else ""
        return f"attention {name_of(self.dtype)}, head {self.head_size}, {rows}{window}"


def run(record: Record, small: bool) -> None:
    install()
    init_distributed(Parallel(), seed=1)
    for case in attention_cases(small):
        kernel = choose_kernel(
            case.dtype, case.head_size, compute_capability(), 0.0, case.bounds is not None, case.window is not None
        )
        inputs = random_tensors(attention_shapes(case), case.dtype)
        error = largest_error(attention_of(case), lambda *qkv, case=case: exact_attention(case, *qkv), inputs)
        record.check(str(case), error, LIMITS[case.dtype], kernel=kernel)
    for dtype in LIMITS:
        tokens, width = (16, 24) if small else (4096, 4096)
        swiglu = random_tensors([(tokens, 2 * width)], dtype)
        record.check(f"SwiGLU {name_of(dtype)}", largest_error(GatedSilu(None), exact_swiglu, swiglu), LIMITS[dtype])
        check_loss(record, dtype, small)
    check_adam(record)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def attention_cases(small: bool) -> Iterator[AttentionCase]:
    """Yield the cases to compare: each dtype and head size, packed and padded, with and without a sliding window.

    A packed row has an empty document. `small` gives short rows and one head size.
    """
    length, window = (48, 7) if small else (2048, 300)
    bounds = tuple(round(part * length) for part in (0, 0.34, 0.34, 0.73, 1))
    for dtype, head_size in itertools.product(LIMITS, (16,) if small else (64, 80, 96, 128)):
        yield AttentionCase(head_size, dtype, None, bounds, length)
        yield AttentionCase(head_size, dtype, window, bounds, length)
        yield AttentionCase(head_size, dtype, window, None, length)
        yield AttentionCase(head_size, dtype, None, None, length)


def attention_shapes(case: AttentionCase) -> list[tuple[int, ...]]:
    """Return the shapes of query, key and value, [positions, rows, heads, head size]."""
    rows = 1 if case.bounds else 2
    return [(case.length, rows, heads, case.head_size) for heads in (case.heads, case.groups, case.groups)]


def attention_of(case: AttentionCase) -> Callable[..., Tensor]:
    """Return the trainer's attention for `case`, as a function of query, key and value."""
    config = TransformerConfig(
        num_layers=1,
        hidden_size=case.heads * case.head_size,
        num_attention_heads=case.heads,
        num_query_groups=case.groups,
        kv_channels=case.head_size,
        attention_dropout=0.0,
        window_size=(case.window - 1, 0) if case.window else None,
        use_cpu_initialization=True,
    )
    module, packed = TorchAttention(config, 1, AttnMaskType.causal, "self"), None
    if case.bounds:
        boundaries = torch.tensor(case.bounds, dtype=torch.int32, device=device())
        packed = PackedRow.of(boundaries, torch.zeros(1, case.length, dtype=torch.long, device=device()), case.bounds)
    return lambda query, key, value: module(query, key, value, None, packed_seq_params=packed)


def exact_attention(case: AttentionCase, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax attention over the whole score matrix, which is the expected result for inputs in fp64.

    Later positions, other documents, and positions outside the window are masked.
    """
    place = torch.arange(case.length, device=query.device)
    distance = place[:, None] - place[None, :]
    allowed = (distance >= 0) & (distance < (case.window or case.length))
    if case.bounds:
        document = torch.bucketize(place, torch.tensor(case.bounds[1:], device=query.device), right=True)
        allowed &= document[:, None] == document[None, :]
    key, value = (x.repeat_interleave(case.heads // case.groups, dim=2) for x in (key, value))
    scores = torch.einsum("sbhd,tbhd->bhst", query, key) / case.head_size**0.5
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("bhst,tbhd->sbhd", weights, value).flatten(2)


def exact_swiglu(gate_and_up: Tensor) -> Tensor:
    gate, up = gate_and_up.chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def check_loss(record: Record, dtype: torch.dtype, small: bool) -> None:
    """Record the error of the trainer's chunked cross-entropy against cross-entropy over all targets at once in fp64.

    A quarter of the vocabulary rows is padding.
    """
    targets, width, rows = (20, 16, 40) if small else (3000, 1024, 8000)
    in_use = rows * 3 // 4
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, in_use, (targets,), generator=generator).to(device())
    weights = torch.rand(targets, generator=generator).to(device())

    def ours(hidden: Tensor, output: Tensor) -> Tensor:
        return weighted_loss_sum(hidden, output, labels, weights, VocabularyRows(0, in_use), targets // 3)

    def exact(hidden: Tensor, output: Tensor) -> Tensor:
        losses = F.cross_entropy(hidden @ output[:in_use].t(), labels, reduction="none")
        return (losses * weights).sum()

    inputs = random_tensors([(targets, width), (rows, width)], dtype, scale=width**-0.25)
    record.check(f"chunked loss {name_of(dtype)}", largest_error(ours, exact, inputs), LIMITS[dtype])


def check_adam(record: Record) -> None:
    """Record the error of three steps of the trainer's AdamW, which divides gradients by 3, against fp64."""
    start, *gradients = random_tensors([(1000,)] * 4, torch.float32)
    weight = torch.nn.Parameter(start.detach().clone())
    optimizer = FusedLayoutAdam([weight], lr=0.1, weight_decay=0.01)
    exact, first, second = start.detach().double(), 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        weight.grad, optimizer.gradient_divisor = gradient.detach().clone(), 3.0
        optimizer.step()
        wide = gradient.detach().double() / 3
        first, second = 0.9 * first + 0.1 * wide, 0.999 * second + 0.001 * wide**2
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        exact = exact * (1 - 0.1 * 0.01) - 0.1 * update
    record.check("AdamW, 3 steps", relative_error(weight.detach(), exact), 1e-5)


def random_tensors(shapes: list[Any], dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    """Return normally distributed tensors, times `scale`, that require gradients. All devices get the same values."""
    generator = torch.Generator().manual_seed(0)
    tensors = [(torch.randn(shape, generator=generator) * scale).to(device(), dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in tensors]


def largest_error(ours: Callable[..., Tensor], exact: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    """Return the largest relative error of the function `ours`: of its output, and of the gradient of each input.

    `exact` computes the expected output from the inputs in fp64. NaN counts as an infinite error.
    """
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found, expected = ours(*inputs), exact(*wide)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(expected.device)
    found.backward(upstream.to(found.dtype))
    expected.backward(upstream.to(found.dtype).double())
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(inputs, wide, strict=True))]
    return max(relative_error(a, b) for a, b in pairs)


def relative_error(found: Any, exact: Any) -> float:
    difference = (found.double() - exact).abs().nan_to_num(float("inf")).max()
    return float(difference / exact.abs().max())
