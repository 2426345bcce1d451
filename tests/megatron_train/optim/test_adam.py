from __future__ import annotations

import pytest
import torch

from megatron_train.optim.adam import FusedLayoutAdam


def run(optimizer_class: type, decay: float, eps: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (5,))]
    groups = [{"params": weights[:1], "weight_decay": decay}, {"params": weights[1:], "weight_decay": 0.0}]
    optimizer = optimizer_class(groups, lr=3e-3, betas=(0.9, 0.95), eps=eps)
    for step in range(20):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 20)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize(("decay", "eps"), [(0.0, 1e-8), (0.1, 1e-8), (1e-6, 1e-12)])
def test_twenty_steps_equal_torchs_adamw(decay: float, eps: float) -> None:
    for own, torchs in zip(run(FusedLayoutAdam, decay, eps), run(torch.optim.AdamW, decay, eps), strict=True):
        torch.testing.assert_close(own, torchs, rtol=2e-6, atol=2e-7)


def test_without_adam_w_mode_the_decay_is_part_of_the_gradient() -> None:
    def train(optimizer_class: type, **options: object) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 9))
        optimizer = optimizer_class([weight], lr=1e-2, weight_decay=0.1, **options)
        for step in range(5):
            weight.grad = torch.cos(torch.arange(9.0) + step)
            optimizer.step()
        return weight.detach()

    torch.testing.assert_close(train(FusedLayoutAdam, adam_w_mode=False), train(torch.optim.Adam), rtol=2e-6, atol=2e-7)


def test_the_divisor_scales_the_gradients_of_one_step() -> None:
    def train(divisor: float) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 9))
        optimizer = FusedLayoutAdam([weight], lr=1e-2, eps=1e-2)
        for step in range(3):
            weight.grad = torch.cos(torch.arange(9.0)) * (divisor if step < 2 else 1.0)
            optimizer.gradient_divisor = divisor if step < 2 else 1.0
            optimizer.step()
            assert optimizer.gradient_divisor == 1.0
        return weight.detach()

    torch.testing.assert_close(train(8.0), train(1.0), rtol=0, atol=0)


def test_a_step_allocates_nothing_as_large_as_the_weights() -> None:
    """Temporaries as large as the weights would decide whether a model fits on a GPU of 80 GB."""
    weight = torch.nn.Parameter(torch.ones(1_000_000))
    optimizer = FusedLayoutAdam([weight], lr=1e-2, weight_decay=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.gradient_divisor = 2.0
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer.step()
    assert max(event.self_cpu_memory_usage for event in profile.key_averages()) < 1000


def test_parameters_that_a_rank_holds_nothing_of_are_accepted() -> None:
    """With many data-parallel ranks, some hold an empty part of a parameter."""
    empty, weight = torch.nn.Parameter(torch.zeros(0)), torch.nn.Parameter(torch.ones(2))
    optimizer = FusedLayoutAdam([empty, weight], lr=0.1)
    empty.grad, weight.grad = torch.zeros(0), torch.ones(2)
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, 0.9])


def test_the_step_is_in_the_group_and_parameters_without_gradient_are_left_alone() -> None:
    with_gradient, without = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = FusedLayoutAdam([with_gradient, without], lr=0.1)
    for _ in range(3):
        with_gradient.grad = torch.ones(2)
        optimizer.step()
    assert optimizer.param_groups[0]["step"] == 3
    assert set(optimizer.state[with_gradient]) == {"exp_avg", "exp_avg_sq"}
    assert without.tolist() == [1.0, 1.0]


def test_a_step_in_a_cuda_graph_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    FusedLayoutAdam([weight], capturable=False)  # megatron-core 0.19 passes it
    with pytest.raises(AssertionError, match="CUDA graph"):
        FusedLayoutAdam([weight], capturable=True)
