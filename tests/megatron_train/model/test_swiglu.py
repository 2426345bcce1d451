"""SwiGLU and its gradient equal torch's autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from megatron_train.model.swiglu import GatedSilu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_are_autograds_to_the_last_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    first = torch.randn(5, 3, 2 * 8).to(dtype).requires_grad_()
    second = first.detach().clone().requires_grad_()
    weight = torch.randn(5, 3, 8).to(dtype)
    ours, (gate, up) = GatedSilu(None)(first), second.chunk(2, dim=-1)
    theirs = F.silu(gate) * (up + 0.0)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    assert first.grad is not None and second.grad is not None
    assert torch.equal(ours, theirs) and torch.equal(first.grad, second.grad)


def test_value_of_numbers_by_hand() -> None:
    x = torch.tensor([[0.0, 2.0, 3.0, 0.5]])
    assert GatedSilu(None)(x).tolist() == [[0.0, pytest.approx(2.0 * 0.8807970779778823 * 0.5)]]


def test_only_the_input_is_kept() -> None:
    kept: list[torch.Tensor] = []
    x = torch.randn(4, 16, requires_grad=True)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        GatedSilu(None)(x * 1.0)
    assert [tuple(tensor.shape) for tensor in kept] == [(4, 16)]
