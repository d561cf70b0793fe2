"""Layers one after another, and what they share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import MixedStackConfig, StackConfig
from regard.nn.attention import Attention, dropped
from regard.nn.build import build, builds
from regard.nn.context import Context


@builds(StackConfig)
class Stack(nn.Module):
    """(..., C) -> (..., C) through every step of the schedule, then the final norm.

    `layer_drop` is the config's, unless layers must all run, as where devices share them out.
    """

    def __init__(self, config: StackConfig):
        super().__init__()
        self.config, self.layer_drop = config, config.layer_drop
        self.layers = nn.ModuleList(build(layer, config.dim) for layer in config.layers)
        self.bias = build(config.bias) if config.bias is not None else None
        self.norm = build(config.final_norm, config.dim) if config.final_norm is not None else None

    def prepare(self, ctx: Context) -> None:
        """Put into every group what the layers share. Subclasses add to it."""
        for group in ctx.groups:
            group.default_mask = self.config.mask
            if self.bias is not None:
                group.bias = self.bias(group.q.positions, group.k.positions)

    def step(self, index: int, x: Tensor, ctx: Context) -> Tensor:
        """One layer, or while training perhaps none: the batch as it came, norms and all (LayerDrop)."""
        if self.training and self.layer_drop and bool(torch.rand(()) < self.layer_drop):
            return x
        return self.layers[index](x, ctx)

    def through(self, x: Tensor, ctx: Context) -> Tensor:
        """All layers in their order, and the final norm."""
        for ctx.layer, index in enumerate(self.config.order):
            x = self.step(index, x, ctx)
        return x if self.norm is None else self.norm(x)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        self.prepare(ctx)
        return dropped(self.through(x, ctx), self.config.dropout, self.training)

    def attentions(self) -> list[Attention]:
        """Self-attention modules in order of layers."""
        return [m for m in self.modules() if isinstance(m, Attention) and not m.is_cross]


@builds(MixedStackConfig)
class MixedStack(Stack):
    """A softmax-weighted average of what enters the first layer and what leaves every one, the last state normed."""

    def __init__(self, config: MixedStackConfig):
        super().__init__(config)
        self.mix = nn.Parameter(torch.zeros(len(config.order) + 1))

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        self.prepare(ctx)
        states = [x]
        for ctx.layer, index in enumerate(self.config.order):
            states.append(self.step(index, states[-1], ctx))
        if self.norm is not None:
            states[-1] = self.norm(states[-1])
        mixed = torch.stack(states, -1) @ self.mix.softmax(0)
        return dropped(mixed, self.config.dropout, self.training)
