"""SwiGLU that keeps only its input for the backward pass: 3 numbers per MLP unit and token where autograd keeps 5.

megatron-core's unfused path keeps gate and up, silu(gate), a copy of up (it adds an offset of 0) and the product. Here
silu(gate) is computed again; the numbers are the same to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class GatedSilu:
    """Activation for ModuleSpec: [..., 2 f] (gate, then up) -> [..., f]. No parameters, so no nn.Module."""

    def __init__(self, config: Any) -> None:
        pass

    def __call__(self, gate_and_up: Tensor) -> Tensor:
        out: Tensor = _GatedSilu.apply(gate_and_up)
        return out


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up)
        gate, up = gate_and_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_and_up,) = ctx.saved_tensors
        gate, up = gate_and_up.chunk(2, dim=-1)
        grads = torch.empty_like(gate_and_up)
        grad_gate, grad_up = grads.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grads
