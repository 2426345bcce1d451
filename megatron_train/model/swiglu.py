"""SwiGLU that saves only its input for the backward pass, to save memory.

In megatron-core's unfused path, autograd keeps 5 values per MLP unit and token: gate, up, silu(gate), a copy of up, and
the product. This one keeps 3, gate, up and the product, and computes silu(gate) again. The results are bitwise equal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from megatron_train.model.compiled import Operation, operation_for


class GatedSilu(nn.Module):
    """Activation function of a SwiGLU MLP, silu(gate) * up, for use in a ModuleSpec.

    It maps [..., 2 f], gate followed by up, to [..., f], where f is the MLP's width on this rank. It has no parameters.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.operation = operation_for(config, Operation(_forward, _backward))

    def forward(self, gate_and_up: Tensor) -> Tensor:
        out: Tensor = _GatedSilu.apply(gate_and_up, self.operation)
        return out

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """Return an empty dictionary, because this module has no parameters to save."""
        return {}


def _forward(gate_and_up: Tensor) -> Tensor:
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _backward(grad: Tensor, gate_and_up: Tensor) -> Tensor:
    gate, up = gate_and_up.chunk(2, dim=-1)
    grads = torch.empty_like(gate_and_up)
    grad_gate, grad_up = grads.chunk(2, dim=-1)
    torch.mul(grad, F.silu(gate), out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
    return grads


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor, operation: Operation) -> Tensor:
        ctx.save_for_backward(gate_and_up)
        ctx.operation = operation
        out: Tensor = operation.forward(gate_and_up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.operation.backward(grad, *ctx.saved_tensors), None
