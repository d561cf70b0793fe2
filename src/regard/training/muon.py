"""Muon: momentum whose steps are made orthogonal, for the matrices of layers (Jordan et al., 2024; 2502.16982)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose iteration brings all singular values near 1, in few steps, if not exactly (Jordan et al.)."""
ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """Moves groups marked `orthogonal` along their momentum (Nesterov's), made orthogonal; all others as AdamW.

    The root mean square of an orthogonal step is brought to 0.2, as AdamW's usually is (2502.16982, 2.2), so that both
    kinds share a learning rate and a weight decay. Matrices of one shape are made orthogonal together.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float):
        super().__init__([{"orthogonal": False, **group} for group in groups], lr, betas, eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` as torch's optimisers take it."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            value = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._move(group)
        return value

    def _move(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike.setdefault(parameter.shape, []).append(parameter)
        rate = group["lr"]
        for shape, parameters in alike.items():
            steps = torch.stack([self._momentum(parameter) for parameter in parameters])
            moved = (-rate * 0.2 * max(shape) ** 0.5) * orthogonal(steps).to(steps.dtype)
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
            torch._foreach_add_(parameters, list(moved))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW looks for it in every state that it loads
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (B, N, M) with singular values near 1 and the singular vectors they had, in bfloat16.

    Newton and Schulz's iteration with `COEFFICIENTS`: values end between about 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
