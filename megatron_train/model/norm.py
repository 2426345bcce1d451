"""RMSNorm and LayerNorm for megatron-core layers, usable with sequence parallelism, alone or after a residual sum.

megatron-core's own torch norm refuses sequence parallelism. The norms here set `sequence_parallel` on their weights, so
that finalize_model_grads sums the gradients over the tensor-parallel group.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from megatron_train.model.compiled import Operation, compiled


class Norm:
    """Factory that megatron-core calls like a class to make an nn.RMSNorm or nn.LayerNorm over the last axis.

    Norm(config, hidden_size, eps) returns the kind that `config.normalization` names.
    """

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> Any:
        kind = nn.RMSNorm if config.normalization == "RMSNorm" else nn.LayerNorm
        norm = kind(
            hidden_size, eps=eps, dtype=config.params_dtype, device=None if config.use_cpu_initialization else "cuda"
        )
        for parameter in norm.parameters():
            setattr(parameter, "sequence_parallel", config.sequence_parallel)  # noqa: B010
        return norm


def add_and_norm(x: Tensor, residual: Tensor, norm: nn.RMSNorm | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return (x + residual, this sum normalized by `norm`), computed by one compiled kernel.

    All tensors are [..., hidden size].
    """
    weight, bias = norm.weight, getattr(norm, "bias", None)
    kind = _LAYER_NORM if isinstance(norm, nn.LayerNorm) else _RMS_NORM
    total, normed = _AddAndNorm.apply(x, residual, weight, bias, norm.eps, compiled(kind))
    return total, normed


def _add_and_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: None, eps: float) -> Any:
    """Return (sum, its norm, the root mean square's inverse [..., 1])."""
    total = x + residual
    wide = total.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return total, (wide * scale * weight).to(x.dtype), scale


def _rms_norm_backward(
    grad: Tensor, grad_total: Tensor, total: Tensor, weight: Tensor, bias: None, scale: Tensor
) -> Any:
    """Return the gradients of (the sum, the weight, None in place of the bias).

    `grad` is the gradient of the normalized output, and `grad_total` that of the sum as an output of its own.
    """
    unit, wide = total.float() * scale, grad.float()
    inner = wide * weight
    through = scale * (inner - unit * (inner * unit).mean(-1, keepdim=True))
    of_weight = (wide * unit).flatten(0, -2).sum(0).to(weight.dtype)
    return (grad_total + through).to(total.dtype), of_weight, None


def _add_and_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
    """Return (sum, its norm, the mean [..., 1] and the inverse standard deviation [..., 1] side by side)."""
    total = x + residual
    wide = total.float()
    mean = wide.mean(-1, keepdim=True)
    scale = torch.rsqrt((wide - mean).square().mean(-1, keepdim=True) + eps)
    normed = ((wide - mean) * scale * weight + bias).to(x.dtype)
    return total, normed, torch.cat([mean, scale], dim=-1)


def _layer_norm_backward(
    grad: Tensor, grad_total: Tensor, total: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor
) -> Any:
    """Return the gradients of (the sum, the weight, the bias).

    `grad` is the gradient of the normalized output, and `grad_total` that of the sum as an output of its own.
    """
    mean, scale = statistics[..., :1], statistics[..., 1:]
    unit, wide = (total.float() - mean) * scale, grad.float()
    inner = wide * weight
    through = scale * (inner - inner.mean(-1, keepdim=True) - unit * (inner * unit).mean(-1, keepdim=True))
    of_weight = (wide * unit).flatten(0, -2).sum(0).to(weight.dtype)
    return (grad_total + through).to(total.dtype), of_weight, wide.flatten(0, -2).sum(0).to(weight.dtype)


_RMS_NORM = Operation(_add_and_rms_norm, _rms_norm_backward)
_LAYER_NORM = Operation(_add_and_layer_norm, _layer_norm_backward)


class _AddAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, operation: Operation
    ) -> tuple[Tensor, Tensor]:
        total, normed, statistics = operation.forward(x, residual, weight, bias, eps)
        ctx.save_for_backward(total, weight, bias, statistics)
        ctx.operation = operation
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, grad: Tensor) -> Any:
        of_total, of_weight, of_bias = ctx.operation.backward(grad, grad_total, *ctx.saved_tensors)
        return of_total, of_total, of_weight, of_bias, None, None
