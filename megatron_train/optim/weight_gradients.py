"""Add the gradients of weight matrices to their fp32 buffers inside the matrix product, where a kernel can do that.

Otherwise each micro-batch writes the gradient of every weight in the model's precision, and reads it again to add it.
For a model of 8 billion parameters in bf16, that is 96 GB of memory traffic for each micro-batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from megatron_train.parallel import distributed
from megatron_train.parallel.device import replace_weight_gradient_kernel, uses_cuda


class Accumulation(NamedTuple):
    """How weight gradients reach their fp32 buffers, and why in this way."""

    kernel: Literal["apex", "torch", "separate"]
    """`apex` and `torch` add inside the matrix product. `separate` is a matrix product, then an addition."""
    reason: str


def choose_accumulation(dtype: torch.dtype, on_cuda: bool, has_apex: bool, is_local: bool, works: bool) -> Accumulation:
    """Return the way to accumulate the gradients of weights in `dtype`.

    `has_apex` says whether Apex's kernel is installed, `is_local` whether the layers are not Transformer Engine's, and
    `works` whether torch's kernel gives the right sum on this device.

    >>> choose_accumulation(torch.bfloat16, on_cuda=True, has_apex=False, is_local=True, works=True).kernel
    'torch'
    """
    if not is_local:
        return Accumulation("separate", "the layers are Transformer Engine's")
    if not on_cuda:
        return Accumulation("separate", "on the CPU, two steps are faster")
    if has_apex:
        return Accumulation("apex", "fused_weight_gradient_mlp_cuda is installed")
    if dtype == torch.float32:
        return Accumulation("torch", "weights and buffers are fp32")
    if not works:
        return Accumulation("separate", "torch's matrix product with fp32 output fails on this device")
    return Accumulation("torch", "torch's matrix product has fp32 output")


def planned_accumulation(dtype: torch.dtype, is_local: bool) -> Accumulation:
    """Return the way to accumulate the gradients of weights in `dtype` on this rank's device."""
    has_apex = importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None
    works = uses_cuda() and dtype != torch.float32 and gives_right_sum(add_product_in_16_bits, dtype)
    return choose_accumulation(dtype, uses_cuda(), has_apex, is_local, works)


def accumulate_in_products(chunks: list[Any], accumulation: Accumulation) -> None:
    """Make the linear layers of `chunks`, which have fp32 gradient buffers, use the kernel of `accumulation`.

    The kernel `separate` changes nothing, because megatron-core's layers work in this way by default.
    """
    if accumulation.kernel == "separate":
        return
    if accumulation.kernel == "torch":
        replace_weight_gradient_kernel(add_product)
    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, ColumnParallelLinear | RowParallelLinear):
                module.gradient_accumulation_fusion = True


def add_product(inputs: Tensor, gradients: Tensor, buffer: Tensor) -> None:
    """Add gradients.T @ inputs to the fp32 `buffer` [out, in]; `inputs` is [tokens, in] and `gradients` [tokens, out].

    The signature is that of Apex's wgrad_gemm_accum_fp32.
    """
    if inputs.dtype == buffer.dtype:
        buffer.addmm_(gradients.t(), inputs)
    else:
        add_product_in_16_bits(inputs, gradients, buffer)


def add_product_in_16_bits(inputs: Tensor, gradients: Tensor, buffer: Tensor) -> None:
    """Do what add_product does, for 16-bit `inputs` and `gradients` on CUDA."""
    torch.ops.aten.addmm.dtype_out(buffer, gradients.t(), inputs, buffer.dtype, out=buffer)


def gives_right_sum(add: Callable[[Tensor, Tensor, Tensor], None], dtype: torch.dtype) -> bool:
    """Return whether `add` works as add_product does, on small numbers in `dtype` on this rank's device."""
    device = distributed.device()
    inputs, gradients = (torch.full((16, 8), value, dtype=dtype, device=device) for value in (1.0, 2.0))
    buffer = torch.full((8, 8), 0.25, device=device)
    try:
        add(inputs, gradients, buffer)
    except (RuntimeError, NotImplementedError):  # the device has no such kernel
        return False
    return bool((buffer == 32.25).all())
