"""The bricks of TimeSformer (2102.05095): frames of a video, and attention divided into time and space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import Config, LayerConfig
from regard.config.vision import PatchesConfig
from regard.nn import Context, Layer, Sublayer, build, builds
from regard.nn.attention import dropped
from regard.nn.linear import Linear
from regard.senses.vision import Patches, on_grid


@dataclass(frozen=True, kw_only=True)
class NearestPatchesConfig(PatchesConfig):
    """Patches that take the nearest trained position where there are more or fewer of them."""


@builds(NearestPatchesConfig)
class NearestPatches(Patches):
    def places(self, table: Tensor, grid: tuple[int, ...]) -> Tensor:
        if grid[0] * grid[1] == self.config.patches:  # the reference compares counts alone
            return table
        first, patches = table.split([self.config.before, self.config.patches])
        patches = F.interpolate(patches.mT.unflatten(1, self.config.grid)[None], size=grid, mode="nearest")
        return torch.cat([first, patches[0].flatten(1).mT])


@dataclass(frozen=True, kw_only=True)
class FramesConfig(Config):
    """A video: `each` of its frames a sequence of its own, or all of them `together`, with a vector for each moment."""

    each: PatchesConfig
    frames: int
    together: bool

    def check(self) -> None:
        self.require(self.frames > 0, "frames", "at least 1")

    @property
    def size(self) -> tuple[int, ...]:
        """Frames, height and width."""
        return self.frames, *self.each.size

    @property
    def patch(self) -> tuple[int, ...]:
        """Of one frame, height and width."""
        return 1, *self.each.patch


@builds(FramesConfig)
class Frames(nn.Module):
    """Patches of every frame; together a class token, then the first patch at each moment, the second patch, ..."""

    def __init__(self, config: FramesConfig):
        super().__init__()
        self.config = config
        self.each = build(config.each)
        self.time = nn.Embedding(config.frames, config.each.dim) if config.together else None

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Context]:
        """pixel_values (B, frames, channels, height, width) -> (B, 1 + patches * frames, C), or (B * frames, T, C).

        Positions of other sizes and moments than the trained ones are those of the nearest.
        Raises ValueError for other shapes and types.
        """
        if pixel_values.ndim != 5 or not pixel_values.is_floating_point():
            shape = "(batch, frames, channels, height, width) of float"
            raise ValueError(f"pixel_values is {tuple(pixel_values.shape)} of {pixel_values.dtype}; allowed: {shape}")
        x, ctx = self.each(pixel_values.flatten(0, 1))
        if self.time is None:
            return x, ctx
        x = x.unflatten(0, pixel_values.shape[:2])  # (B, frames, 1 + patches, C)
        times, count = self.time.weight, x.shape[1]
        if count != len(times):
            times = F.interpolate(times.mT[None], size=count, mode="nearest")[0].mT
        patches = dropped(x[:, :, 1:] + times[:, None], self.config.each.dropout, self.training)
        x = torch.cat([x[:, 0, :1], patches.transpose(1, 2).flatten(1, 2)], 1)
        assert ctx.grid is not None
        return x, on_grid(x, (count, *ctx.grid))


@dataclass(frozen=True, kw_only=True)
class DividedLayerConfig(LayerConfig):
    """A layer whose attention is divided: over the moments of one place, then over the places of one moment."""


@builds(DividedLayerConfig)
class DividedLayer(Layer):
    """The class token looks at each moment, and keeps the mean of what it saw. (B, 1 + patches * frames, C) -> same."""

    def __init__(self, config: LayerConfig, dim: int):
        super().__init__(config, dim)
        assert config.attention is not None
        self.time = Sublayer(build(config.attention, dim), config, dim)
        self.time_out = Linear(dim, dim)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert ctx.grid is not None
        rows, frames = x.shape[0], ctx.grid[0]
        first, moments = x[:, :1], x[:, 1:].unflatten(1, (-1, frames))  # (B, patches, frames, C)
        seen = self.time.branch(moments.flatten(0, 1), on_grid(moments.flatten(0, 1), ()))
        moments = moments + self.time_out(seen).unflatten(0, (rows, -1))
        places = moments.transpose(1, 2).flatten(0, 1)  # (B * frames, patches, C)
        places = torch.cat([first.repeat_interleave(frames, 0), places], 1)
        seen = self.attn.branch(places, on_grid(places, ())).unflatten(0, (rows, frames))
        first = first + seen[:, :, :1].mean(1)
        moments = moments + seen[:, :, 1:].transpose(1, 2)
        return self.ffn(torch.cat([first, moments.flatten(1, 2)], 1), ctx)
