"""Score biases that a whole stack shares: learned distances, ALiBi."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regard.config import AlibiConfig, RelativeBiasConfig
from regard.nn.build import builds


@builds(RelativeBiasConfig)
class RelativeBias(nn.Module):
    """A learned score per head and distance bucket: exact buckets near, logarithmic ones far (1910.10683, 2.1)."""

    def __init__(self, config: RelativeBiasConfig):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.num_buckets, config.num_heads)

    def buckets(self, distance: Tensor) -> Tensor:
        """Bucket of each signed distance key - query."""
        c = self.config
        if c.bidirectional:
            count, start = c.num_buckets // 2, (distance > 0).long() * (c.num_buckets // 2)
            distance = distance.abs()
        else:
            count, start = c.num_buckets, torch.zeros_like(distance)
            distance = (-distance).clamp(min=0)
        exact = count // 2
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(c.max_distance / exact) * (count - exact)
        return start + torch.where(distance < exact, distance, (exact + far.long()).clamp(max=count - 1))

    def forward(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Positions (B, Tq) and (B, Tk) -> scores (B, H, Tq, Tk)."""
        distance = k_positions[:, None, :] - q_positions[:, :, None]
        return self.table(self.buckets(distance)).permute(0, 3, 1, 2)


@builds(AlibiConfig)
class Alibi(nn.Module):
    """-slope * distance, slopes in a geometric series over heads (2108.12409)."""

    def __init__(self, config: AlibiConfig):
        super().__init__()
        self.num_heads = config.num_heads

    def slopes(self) -> list[float]:
        """2^(-8/n), 2^(-16/n) ...; for head counts that are no power of two, the odd ones of the next are added."""
        n = 2 ** math.floor(math.log2(self.num_heads))
        slopes = [2 ** (-8 * (i + 1) / n) for i in range(n)]
        return slopes + [2 ** (-4 * (2 * i + 1) / n) for i in range(self.num_heads - n)]

    def forward(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Positions (B, Tq) and (B, Tk) -> scores (B, H, Tq, Tk)."""
        distance = (k_positions[:, None, :] - q_positions[:, :, None]).abs().float()
        slopes = torch.tensor(self.slopes(), device=distance.device)
        return -slopes[None, :, None, None] * distance[:, None]
