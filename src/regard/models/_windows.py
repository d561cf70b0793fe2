"""Bricks of Swin (2103.14030): attention in windows of patches, shifted or not, and stages of growing width.

Windows are given to attention in place of rows; segments part what only a shift brought together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import AttentionConfig, NormConfig, Segments, StackConfig
from regard.config.vision import PatchesConfig
from regard.nn import Attention, Context, Group, Stack, Tokens, build, builds
from regard.senses.vision import Patches, on_grid


@dataclass(frozen=True, kw_only=True)
class WholePatchesConfig(PatchesConfig):
    """Patches of an image filled up with zeros at the right and at the bottom."""


@builds(WholePatchesConfig)
class WholePatches(Patches):
    """No pixel is left over."""

    def checked(self, pixels: Tensor, resample: bool | None) -> Tensor:
        if pixels.ndim == 4:
            (height, width), (h, w) = pixels.shape[2:], self.config.patch
            pixels = F.pad(pixels, (0, -width % w, 0, -height % h))
        return super().checked(pixels, resample)


@dataclass(frozen=True, kw_only=True)
class WindowAttentionConfig(AttentionConfig):
    """Attention inside windows of `window` x `window` patches, `shift` patches down and to the right."""

    window: int
    shift: int = 0


@builds(WindowAttentionConfig)
class WindowAttention(Attention):
    """(B, T, C) on a grid -> the same; a learned score for every distance inside a window."""

    def __init__(self, config: WindowAttentionConfig, dim: int, memory_dim: int | None = None):
        super().__init__(config, dim, memory_dim)
        self.window, self.shift = config.window, config.shift
        self.table = nn.Embedding((2 * config.window - 1) ** 2, config.num_heads)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert ctx.grid is not None
        (height, width), w = ctx.grid, self.window
        shift = self.shifted(ctx.grid)
        image = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, -width % w, 0, -height % w))
        padded = image.shape[1:3]
        y = super().forward(self._cut(image.roll((-shift, -shift), (1, 2))), self._context(x, padded, shift))
        y = y.unflatten(0, (-1, padded[0] // w, padded[1] // w)).unflatten(3, (w, w))
        y = y.transpose(2, 3).flatten(3, 4).flatten(1, 2).roll((shift, shift), (1, 2))
        return y[:, :height, :width].flatten(1, 2)

    def shifted(self, grid: tuple[int, ...]) -> int:
        """By how many patches; where one window holds a whole side there is nothing to shift."""
        return 0 if min(grid) <= self.window else self.shift

    def _cut(self, image: Tensor) -> Tensor:
        """(B, height, width, C) -> (B * windows, window * window, C), row by row."""
        w = self.window
        rows = image.unflatten(2, (-1, w)).unflatten(1, (-1, w))  # (B, rows, w, columns, w, C)
        return rows.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _context(self, x: Tensor, size: torch.Size, shift: int) -> Context:
        positions = torch.arange(self.window**2, device=x.device)[None]
        if not shift:
            tokens = Tokens(positions)
            return Context(positions, [Group(tokens, tokens)])
        height, width = (_regions(n, self.window, shift, x.device) for n in size)
        regions = self._cut((3 * height[:, None] + width)[None, ..., None])[..., 0].repeat(x.shape[0], 1)
        tokens = Tokens(positions.expand_as(regions), regions)
        return Context(positions, [Group(tokens, tokens, default_mask=Segments())])

    def score_bias(self, q: Tensor, k: Tensor, group: Group) -> Tensor:
        w, place = self.window, group.q.positions[0]
        down = (place // w)[:, None] - place // w + w - 1
        right = (place % w)[:, None] - place % w + w - 1
        return self.table(down * (2 * w - 1) + right).permute(2, 0, 1)[None]


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Which part of a rolled side each place comes from: what came round the edge is not a neighbour."""
    place = torch.arange(size, device=device)
    return (place >= size - window).long() + (place >= size - shift).long()


@dataclass(frozen=True, kw_only=True)
class StagesConfig(StackConfig):
    """Stacks one after another; between them four neighbours become one of twice the width."""

    stages: tuple[StackConfig, ...]


class Merge(nn.Module):
    """(B, height * width, C) -> (B, a quarter of it, 2 C)"""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = build(NormConfig(), 4 * dim)
        self.proj = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Context]:
        assert ctx.grid is not None
        height, width = ctx.grid
        image = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, width % 2, 0, height % 2))
        parts = [image[:, row::2, column::2] for column in range(2) for row in range(2)]
        x = self.proj(self.norm(torch.cat(parts, -1)))
        return x.flatten(1, 2), on_grid(x.flatten(1, 2), tuple(x.shape[1:3]))


@builds(StagesConfig)
class Stages(Stack):
    """(B, T, C) -> (B, fewer, more)"""

    def __init__(self, config: StagesConfig):
        super().__init__(config)
        self.stages = nn.ModuleList(build(stage) for stage in config.stages)
        self.merges = nn.ModuleList(Merge(stage.dim) for stage in config.stages[:-1])

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        for i, stage in enumerate(self.stages):
            if i:
                x, ctx = self.merges[i - 1](x, ctx)
            x = stage(x, ctx)
        return super().forward(x, ctx)
