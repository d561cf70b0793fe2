"""Normalisation, activations, and residual-branch scales."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import Activation, NormConfig
from regard.nn.build import builds

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
    "identity": lambda x: x,
}


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + weight), in float32 inside (1910.07467). (..., C) -> (..., C)."""

    def __init__(self, dim: int, eps: float, offset: float = 0.0):
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((dim,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.offset:
            return (wide * (self.offset + self.weight.float())).type_as(x)
        return self.weight * wide.type_as(x)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


@builds(NormConfig)
def build_norm(config: NormConfig, dim: int) -> nn.Module:
    """LayerNorm or RMSNorm over the last `dim` channels."""
    if config.kind == "layer":
        return nn.LayerNorm(dim, eps=config.eps)
    return RMSNorm(dim, config.eps, config.offset)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (2103.17239)."""

    def __init__(self, dim: int, init: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class TanhGate(LayerScale):
    """tanh(a) on a residual branch, one learned number or one per channel, closed at the start (2204.14198)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.tanh()
