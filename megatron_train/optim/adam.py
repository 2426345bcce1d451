"""AdamW in torch's fused kernel, with the state layout of Transformer Engine's and Apex's FusedAdam.

In that layout, the step count belongs to the parameter group and not to each tensor. megatron-core's distributed
optimizer can save and load it, so checkpoints move between machines with and without those packages. The fused kernel
updates weights and moments in one pass over memory and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class FusedLayoutAdam(torch.optim.Optimizer):
    """Adam with bias correction, whose state has the layout of FusedAdam, on any device.

    Weight decay is decoupled, as in AdamW, unless `adam_w_mode` is off. megatron-core 0.19 passes `capturable`, whether
    to record the step in a CUDA graph, which must be False.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        capturable: bool = False,
    ) -> None:
        assert not capturable, "the step count is a number of the CPU, which a CUDA graph would not increase"
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.adam_w_mode = adam_w_mode
        self.gradient_divisor = 1.0
        """The next step divides the gradients by this number, which clips them, and resets it to 1."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. `closure` is ignored."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                group["step"] = group.get("step", 0) + 1
                self._step_group(group, weights)
        self.gradient_divisor = 1.0

    def _step_group(self, group: dict[str, Any], weights: list[torch.Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight].update(exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight))
        gradients: Any = [weight.grad for weight in weights]
        device = weights[0].device
        step = torch.full((), float(group["step"]), device=device)
        divisor = None
        if self.gradient_divisor != 1.0:
            divisor = torch.full((), self.gradient_divisor, device=device)
        update = torch._fused_adamw_ if self.adam_w_mode else torch._fused_adam_
        update(
            weights,
            gradients,
            [self.state[weight]["exp_avg"] for weight in weights],
            [self.state[weight]["exp_avg_sq"] for weight in weights],
            [],
            [step] * len(weights),
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
