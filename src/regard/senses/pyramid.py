"""Encoders of images whose grid grows coarser from stage to stage, and heads that read the maps of every stage."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import NormConfig
from regard.config.pyramid import (
    MapFeaturesConfig,
    MixFeedForwardConfig,
    OverlapPatchesConfig,
    PyramidConfig,
    ReducedAttentionConfig,
    SemanticHeadConfig,
)
from regard.nn.attention import Attention, dropped
from regard.nn.build import build, builds
from regard.nn.context import Context, Group, Tokens, rectangles
from regard.nn.feed_forward import FeedForward
from regard.nn.head import Ends
from regard.nn.stack import Stack
from regard.senses.vision import Patches, PooledHead


def as_map(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Vectors of patches, row by row (B, height * width, C) -> (B, C, height, width)."""
    return x.mT.unflatten(2, grid)


def as_rows(x: Tensor) -> Tensor:
    """The inverse of `as_map`."""
    return x.flatten(2).mT


@builds(OverlapPatchesConfig)
class OverlapPatches(Patches):
    """Patches that share pixels with their neighbours. Reads images, and the maps of an earlier stage."""

    def __init__(self, config: OverlapPatchesConfig):
        super().__init__(config)
        self.least = config.least
        around = (config.patch[0] // 2, config.patch[1] // 2)
        self.proj = nn.Conv2d(config.channels, config.dim, config.patch, config.stride, around, bias=config.bias)  # type: ignore[arg-type]


@builds(ReducedAttentionConfig)
class ReducedAttention(Attention):
    """(B, T, C) on a grid -> the same. What is left over of the grid at the right and at the bottom is not a key."""

    def __init__(self, config: ReducedAttentionConfig, dim: int, memory_dim: int | None = None):
        super().__init__(config, dim, memory_dim)
        self.reduce = nn.Conv2d(dim, dim, config.ratio, config.ratio)
        self.reduce_norm = build(NormConfig(), dim)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert ctx.grid is not None
        seen = self.reduce_norm(as_rows(self.reduce(as_map(x, ctx.grid))))
        keys = Tokens(torch.arange(seen.shape[1], device=x.device)[None])
        q = self._heads(self.q(x), self.q_norm)
        k, v = self._heads(self.k(seen), self.k_norm), self._heads(self.v(seen), None)
        return self._attended(q, rectangles(k, None), rectangles(v, None), [Group(ctx.groups[0].q, keys)], ctx)


@builds(MixFeedForwardConfig)
class MixFeedForward(FeedForward):
    """down(act(mix(up(x)))), mix being a convolution of each channel by itself."""

    def __init__(self, config: MixFeedForwardConfig, dim: int):
        super().__init__(config, dim)
        self.mix = nn.Conv2d(config.hidden_dim, config.hidden_dim, 3, padding=1, groups=config.hidden_dim)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert ctx.grid is not None
        y = as_rows(self.mix(as_map(self.up(x), ctx.grid)))
        return self.down(dropped(self.activation(y), self.config.dropout, self.training))


@builds(PyramidConfig)
class Pyramid(Stack):
    """(B, T, C) on a grid -> (B, fewer, C), the maps of all stages in the context."""

    def __init__(self, config: PyramidConfig):
        super().__init__(config)
        self.stages = nn.ModuleList(build(stage) for stage in config.stages)
        self.between = nn.ModuleList(build(patches) for patches in config.between)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        inner = ctx
        for i, stage in enumerate(self.stages):
            if i:
                x, inner = self.between[i - 1](ctx.maps[-1])
            x = stage(x, inner)
            assert inner.grid is not None
            ctx.maps.append(as_map(x, inner.grid))
        return super().forward(x, ctx)


class BatchNorm(nn.Module):
    """Each channel of (B, C, ...) by its mean and variance: of the batch in training, else as then recorded
    (1502.03167). What is recorded is kept as parameters that take no gradient."""

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.mean = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.variance = nn.Parameter(torch.ones(dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, self.training, self.momentum, self.eps)


@builds(MapFeaturesConfig)
class MapFeatures(PooledHead):
    """The last map, and a vector for each image."""

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        return {"last_hidden_state": ends.ctx.maps[-1], **super().forward(hidden, ends)}


@builds(SemanticHeadConfig)
class SemanticHead(nn.Module):
    """Every map brought to one width and to the first one's size, then mixed: `logits` (B, labels, height, width)."""

    def __init__(self, config: SemanticHeadConfig, dim: int):
        super().__init__()
        self.dropout = config.dropout
        self.proj = nn.ModuleList(nn.Linear(width, config.dim) for width in config.widths)
        self.fuse = nn.Conv2d(config.dim * len(config.widths), config.dim, 1, bias=False)
        self.norm = BatchNorm(config.dim)
        self.out = nn.Conv2d(config.dim, config.num_labels, 1)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        maps = ends.ctx.maps
        levels = [as_map(p(as_rows(x)), tuple(x.shape[2:])) for p, x in zip(self.proj, maps, strict=True)]
        levels = [F.interpolate(x, tuple(maps[0].shape[2:]), mode="bilinear", align_corners=False) for x in levels]
        x = self.norm(self.fuse(torch.cat(levels[::-1], 1))).relu()  # the coarsest first, as checkpoints have it
        return {"logits": self.out(dropped(x, self.dropout, self.training))}
