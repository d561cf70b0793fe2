"""Disentangled attention (2006.03654): words score words, words score distances, and distances score words.

Distances are vectors that all layers share, each layer projecting them by its own keys and queries; the far ones lie in
logarithmic buckets. The largest models add a convolution beside the first layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.config import Activation, AttentionConfig, LayerConfig, NormConfig, StackConfig
from regard.nn import ACTIVATIONS, Attention, Context, Group, Layer, Stack, build, builds
from regard.nn.attention import dropped
from regard.nn.context import joined, rectangles


@dataclass(frozen=True, kw_only=True)
class DisentangledStackConfig(StackConfig):
    """`span` distances on either side, in `buckets` (0: each its own) that reach as far as `reach` tokens."""

    span: int
    buckets: int
    reach: int
    relative_norm: NormConfig | None

    def check(self) -> None:
        super().check()
        ok = self.buckets == 0 or (self.buckets >= 4 and self.reach > self.buckets // 2 + 1)
        self.require(ok, "buckets", f"0, or from 4 to less than twice reach = {self.reach}")


@builds(DisentangledStackConfig)
class DisentangledStack(Stack):
    """A stack whose groups share vectors of distances (R, C), and know which one is between two tokens."""

    config: DisentangledStackConfig

    def __init__(self, config: DisentangledStackConfig):
        super().__init__(config)
        self.relative = nn.Embedding(2 * config.span, config.dim)
        self.relative_norm = None if config.relative_norm is None else build(config.relative_norm, config.dim)

    def bucket(self, distance: Tensor) -> Tensor:
        """Signed distances query - key: exact up to half of the buckets, then logarithmic."""
        middle, far = self.config.buckets // 2, distance.abs()
        if middle == 0:
            return distance
        # In float32 throughout: the trained models' bounds lie where that rounds them.
        turn = torch.log(far.clamp(min=middle) / middle) / torch.log(torch.tensor((self.config.reach - 1) / middle))
        return torch.where(far <= middle, distance, (torch.ceil(turn * (middle - 1)).long() + middle) * distance.sign())

    def prepare(self, ctx: Context) -> None:
        super().prepare(ctx)
        low, high = 0, 2 * self.config.span - 1
        vectors = self.relative.weight if self.relative_norm is None else self.relative_norm(self.relative.weight)
        if ctx.positions.device.type == "cpu" and not torch.compiler.is_compiling():
            # Distances beyond the longest sequence need no projecting; elsewhere asking would hold up the device.
            most = int(self.bucket(ctx.positions.max()))
            low, high = max(low, self.config.span - most), min(high, self.config.span + most)
        for group in ctx.groups:
            positions = group.q.positions[:1] if group.aligned else group.q.positions
            distance = self.bucket(positions[:, :, None] - positions[:, None, :])
            group.relative = vectors[low : high + 1]
            group.memo["distance"] = (distance + self.config.span).clamp(low, high)[:, None] - low  # (1 or B, 1, T, T)


@dataclass(frozen=True, kw_only=True)
class DisentangledConfig(AttentionConfig):
    """`c2p`: words score distances; `p2c`: distances score words; `shared`: both pass through the same k and q."""

    c2p: bool
    p2c: bool
    shared: bool
    relative_dropout: float


@builds(DisentangledConfig)
class Disentangled(Attention):
    """Attention with scores between words and distances; all terms have one scale, (D * number of terms) ** -0.5."""

    config: DisentangledConfig

    def __init__(self, config: DisentangledConfig, dim: int):
        super().__init__(config, dim)
        inner, own = config.num_heads * config.head_dim, not config.shared
        self.relative_k = nn.Linear(dim, inner) if config.c2p and own else None
        self.relative_q = nn.Linear(dim, inner) if config.p2c and own else None

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        vectors = ctx.groups[0].relative  # the same for all groups: projected once
        assert vectors is not None
        vectors = dropped(vectors, self.config.relative_dropout, self.training)
        keys = self._projected(vectors, self.relative_k or self.k) if self.config.c2p else None
        queries = self._projected(vectors, self.relative_q or self.q) if self.config.p2c else None
        for group in ctx.groups:
            group.memo["projected"] = keys, queries
        return super().forward(x, ctx)

    def _projected(self, vectors: Tensor, linear: nn.Module) -> Tensor:  # (R, C) -> (H, D, R)
        return self._heads(linear(vectors), None).permute(1, 2, 0)

    def score_bias(self, q: Tensor, k: Tensor, group: Group) -> Tensor | None:
        keys, queries = group.memo["projected"]
        index = group.memo["distance"].expand(q.shape[0], q.shape[1], -1, -1)  # (B, H, T, T)
        scores = None if keys is None else (q @ keys).gather(-1, index)
        if queries is not None:
            turned = (k @ queries).gather(-1, index.mT).mT
            scores = turned if scores is None else scores + turned
        return None if scores is None else scores * self.config.scale


@dataclass(frozen=True, kw_only=True)
class ConvLayerConfig(LayerConfig):
    """A layer with a convolution of its input beside it: norm(layer(x) + activation(conv(x)))."""

    kernel: int
    conv_groups: int
    conv_activation: Activation


@builds(ConvLayerConfig)
class ConvLayer(Layer):
    """(..., C) -> (..., C); what lies beyond a sequence's ends is zero, whatever the layout."""

    def __init__(self, config: ConvLayerConfig, dim: int):
        super().__init__(config, dim)
        self.config = config
        self.conv = nn.Conv1d(dim, dim, config.kernel, padding=(config.kernel - 1) // 2, groups=config.conv_groups)
        self.conv_norm = build(config.norm, dim)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        parts = []
        for group, part in zip(ctx.groups, rectangles(x.unsqueeze(-2), ctx.lengths), strict=True):  # (B, 1, T, C)
            if group.q_valid is not None:
                part = part * group.q_valid[:, None, :, None]
            parts.append(self.conv(part.squeeze(1).mT).mT.unsqueeze(1))
        y = dropped(joined(parts, ctx.lengths).squeeze(-2), self.config.dropout, self.training)
        return self.conv_norm(super().forward(x, ctx) + ACTIVATIONS[self.config.conv_activation](y))
