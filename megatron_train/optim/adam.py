"""AdamW with the state layout of Transformer Engine's and Apex's FusedAdam: `step` lives in the parameter group, not
per tensor.

megatron-core's distributed optimizer saves and loads that layout, so checkpoints move between machines with and without
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class FusedLayoutAdam(torch.optim.Optimizer):
    """Decoupled weight decay when `adam_w_mode`, bias-corrected; any device. torch.optim.AdamW to fp32 rounding."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.adam_w_mode = adam_w_mode

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                group["step"] = group.get("step", 0) + 1
                self._step_group(group, weights)

    def _step_group(self, group: dict[str, Any], weights: list[torch.Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight].update(exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight))
        grads: Any = [weight.grad for weight in weights]
        (beta1, beta2), steps = group["betas"], group["step"]
        exp_avg = [self.state[weight]["exp_avg"] for weight in weights]
        exp_avg_sq = [self.state[weight]["exp_avg_sq"] for weight in weights]
        if group["weight_decay"] and self.adam_w_mode:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        elif group["weight_decay"]:
            grads = torch._foreach_add(grads, weights, alpha=group["weight_decay"])
        torch._foreach_lerp_(exp_avg, grads, 1 - beta1)
        torch._foreach_mul_(exp_avg_sq, beta2)
        torch._foreach_addcmul_(exp_avg_sq, grads, grads, 1 - beta2)
        denominators = torch._foreach_sqrt(exp_avg_sq)
        torch._foreach_div_(denominators, (1 - beta2**steps) ** 0.5)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(weights, exp_avg, denominators, -group["lr"] / (1 - beta1**steps))
