"""A layer is an ordered set of residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import LayerConfig
from regard.nn.attention import dropped
from regard.nn.build import build, builds
from regard.nn.context import Context
from regard.nn.norm import LayerScale, TanhGate


class Sublayer(nn.Module):
    """A residual branch: the only home of norm placement, branch scale and what is dropped.

    pre: x + f(norm(x)); post: norm(x + f(x)); branch: x + norm(f(x)); sandwich: x + post_norm(f(norm(x))).
    """

    def __init__(self, fn: nn.Module, config: LayerConfig, dim: int):
        super().__init__()
        self.fn, self.config = fn, config
        self.norm = build(config.norm, dim)
        self.post_norm = build(config.norm, dim) if config.order == "sandwich" else None
        kind = LayerScale if config.scale == "layer" else TanhGate
        self.scale = kind(1 if config.scale == "tanh" else dim, config.scale_init) if config.scale != "none" else None

    def branch(self, x: Tensor, ctx: Context) -> Tensor:
        """What the branch adds to the residual stream."""
        order = self.config.order
        y = self.fn(self.norm(x) if order in ("pre", "sandwich") else x, ctx)
        y = dropped(y, self.config.dropout, self.training)
        if order == "branch":
            y = self.norm(y)
        elif self.post_norm is not None:
            y = self.post_norm(y)
        return self._survivors(y if self.scale is None else self.scale(y), ctx)

    def _survivors(self, y: Tensor, ctx: Context) -> Tensor:
        """Each row whole or not at all, while training (stochastic depth, 1603.09382); its mean stays."""
        p = self.config.drop_path
        if not (p and self.training):
            return y
        kept = y.new_empty(y.shape[0] if ctx.lengths is None else len(ctx.lengths)).bernoulli_(1 - p) / (1 - p)
        if ctx.lengths is not None:
            kept = kept.repeat_interleave(torch.tensor(ctx.lengths, device=y.device))
        return y * kept.view(-1, *(1,) * (y.ndim - 1))

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        x = x + self.branch(x, ctx)
        return self.norm(x) if self.config.order == "post" else x


@builds(LayerConfig)
class Layer(nn.Module):
    """Attention, cross-attention and feed-forward, those that the config has. (..., C) -> (..., C)."""

    def __init__(self, config: LayerConfig, dim: int):
        super().__init__()
        self.parallel = config.parallel
        if config.attention is not None:
            self.attn = Sublayer(build(config.attention, dim), config, dim)
        if config.cross is not None:
            self.cross = Sublayer(build(config.cross, dim, config.memory_dim or dim), config, dim)
        if config.feed_forward is not None:
            self.ffn = Sublayer(build(config.feed_forward, dim), config, dim)

    def sublayers(self) -> list[Sublayer]:
        """The branches in the order in which they run."""
        return [module for module in self.children() if isinstance(module, Sublayer)]

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        if self.parallel:
            return x + sum(sublayer.branch(x, ctx) for sublayer in self.sublayers())
        for sublayer in self.sublayers():
            x = sublayer(x, ctx)
        return x
