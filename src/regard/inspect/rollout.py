"""Attention rollout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rollout(weights: Sequence[Tensor], *, residual: float = 0.5) -> Tensor:
    """How much of each input token is in each output token: the product over layers of mean heads and residual.

    A = residual * I + (1 - residual) * mean over heads, multiplied from the first layer up (2005.00928, 3).
    weights: one (B, H, T, T) per layer -> (B, T, T), rows summing to 1. Raises ValueError if they are not square.
    """
    if not weights or any(w.ndim != 4 or w.shape[-1] != w.shape[-2] for w in weights):
        raise ValueError(f"rollout needs (B, H, T, T) weights of each layer; got {[tuple(w.shape) for w in weights]}")
    eye = torch.eye(weights[0].shape[-1], device=weights[0].device)
    total = eye.expand(weights[0].shape[0], -1, -1)
    for w in weights:
        total = (residual * eye + (1 - residual) * w.float().mean(1)) @ total
    return total
