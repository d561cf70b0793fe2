"""Bricks of DETR (2005.12872) and its like: learned queries look, all at once, at an image whose places are known.

Places are vectors that attention adds to what asks and to what is asked, and never to what is told.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import (
    Activation,
    AttentionConfig,
    Config,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    SinusoidalPositions,
    StackConfig,
    TowerConfig,
)
from regard.config.vision import BoxesHeadConfig
from regard.models._residual import Residuals, ResidualsConfig
from regard.models.base import Raw, Rule
from regard.models.common import head_dim
from regard.nn import ACTIVATIONS, Attention, Context, Group, Stack, Tokens, build, builds, sinusoids
from regard.nn.attention import dropped
from regard.nn.context import rectangles, with_memory
from regard.nn.head import Ends
from regard.senses.pyramid import as_rows
from regard.senses.vision import BoxesHead


@dataclass
class PlacedContext(Context):
    """A context with places of the tokens (B or 1, T, C), and of the memory (B or 1, S, C)."""

    places: Tensor | None = None
    memory_places: Tensor | None = None


def places_of(valid: Tensor, dim: int) -> Tensor:
    """Sines and cosines of row and column, each a fraction of 2 pi of the image's real part (2005.12872, A.4).

    valid (B, height, width) -> (B, height * width, dim) float32
    """
    parts = []
    for axis in (1, 2):
        count = valid.float().cumsum(axis)
        angle = count / (count.narrow(axis, -1, 1) + 1e-6) * (2 * math.pi)
        parts.append(sinusoids(angle, dim // 2, SinusoidalPositions(size=dim)))
    return torch.cat(parts, -1).flatten(1, 2)


@dataclass(frozen=True, kw_only=True)
class PlacedAttentionConfig(AttentionConfig):
    """Attention whose queries and keys, not values, know their places."""


@builds(PlacedAttentionConfig)
class PlacedAttention(Attention):
    """(B, T, C) -> (B, T, C), in a `PlacedContext`."""

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert isinstance(ctx, PlacedContext) and ctx.places is not None
        asking = x + ctx.places
        known, told, groups = asking, x, ctx.groups
        if self.is_cross:
            assert ctx.memory is not None and ctx.memory_places is not None
            known, told, groups = ctx.memory + ctx.memory_places, ctx.memory, ctx.memory_groups
        q, k = self._heads(self.q(asking), self.q_norm), self._heads(self.k(known), self.k_norm)
        v = self._heads(self.v(told), None)
        return self._attended(q, rectangles(k, None), rectangles(v, None), groups, ctx)


@dataclass(frozen=True, kw_only=True)
class NormedStackConfig(StackConfig):
    """A stack whose final norm follows every layer, and the last of them twice."""


@builds(NormedStackConfig)
class NormedStack(Stack):
    """(B, T, C) -> (B, T, C), as the reference runs what was trained with losses for every layer."""

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert self.norm is not None
        self.prepare(ctx)
        for ctx.layer, index in enumerate(self.config.order):
            x = self.norm(self.layers[index](x, ctx))
        return self.norm(x)


# ------------------------------------------------------------------------------------------------- front-ends


@dataclass(frozen=True, kw_only=True)
class PlacedMapConfig(Config):
    """The last map of convolutions, projected to `dim` channels, with places."""

    maps: ResidualsConfig
    dim: int
    dropout: float = 0.0

    def check(self) -> None:
        self.require(self.dim > 0 and self.dim % 4 == 0, "dim", "a multiple of 4 above 0")


@builds(PlacedMapConfig)
class PlacedMap(nn.Module):
    """Pixels -> rows of a map (B, T, C); the context has its places and the maps of all stages, the last projected."""

    def __init__(self, config: PlacedMapConfig):
        super().__init__()
        self.config = config
        self.maps: Residuals = build(config.maps)
        self.proj = nn.Conv2d(config.maps.widths[-1], config.dim, 1)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, Context]:
        """pixel_values (B, channels, height, width), and pixel_mask (B, height, width), 0 where an image is padded.

        Nobody looks at padding. Raises ValueError for other shapes and types, and for an image that is all padding.
        """
        maps = self.maps.maps(pixel_values)
        last = self.proj(maps[-1])
        x, grid = as_rows(last), tuple(last.shape[2:])
        real = torch.ones(1, *grid, device=x.device)
        valid = None
        if pixel_mask is not None:
            real = _shrunk(pixel_mask, pixel_values, grid)
            valid = None if bool(real.all()) else real.flatten(1)
        tokens = Tokens(torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]))
        ctx = PlacedContext(tokens.positions, [Group(tokens, tokens, None, valid)], grid=grid, maps=[*maps[:-1], last])
        ctx.places = places_of(real, self.config.dim).to(x.dtype)
        return dropped(x, self.config.dropout, self.training), ctx


def _shrunk(mask: Tensor, pixels: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Which places of a map are real: those where the nearest pixel is."""
    size = (pixels.shape[0], *pixels.shape[2:])
    if mask.shape != size:
        raise ValueError(f"pixel_mask is {tuple(mask.shape)}; allowed: {tuple(size)}, as pixel_values has")
    real = F.interpolate(mask[None].float(), size=grid)[0].bool()
    if not bool(real.flatten(1).any(1).all()):
        raise ValueError("pixel_mask hides a whole image; allowed: masks that leave something to see")
    return real


@dataclass(frozen=True, kw_only=True)
class QueriesConfig(Config):
    """`count` learned queries about an image whose rows are `memory_dim` wide, and are projected if not to `dim`."""

    count: int
    dim: int
    memory_dim: int

    def check(self) -> None:
        self.require(0 < self.count <= 2**16, "count", "1 to 65536")
        self.require(self.dim > 0 and self.dim % 4 == 0, "dim", "a multiple of 4 above 0")


@builds(QueriesConfig)
class Queries(nn.Module):
    """Rows of an image (B, S, C) and their context -> as many vectors as there are queries, all zero: what tells them
    apart are their places, which are learned."""

    def __init__(self, config: QueriesConfig):
        super().__init__()
        self.config = config
        self.query = nn.Embedding(config.count, config.dim)
        self.proj = nn.Conv2d(config.memory_dim, config.dim, 1) if config.memory_dim != config.dim else None

    def forward(self, rows: Tensor, seen: Context) -> tuple[Tensor, Context]:
        """Returns (B, queries, C) and the context in which they look at the image."""
        if self.proj is not None:
            assert seen.maps
            rows = as_rows(self.proj(seen.maps[-1]))
        places = seen.places if isinstance(seen, PlacedContext) else None
        if places is None:
            places = places_of(torch.ones(1, *seen.maps[-1].shape[2:], device=rows.device), self.config.dim)
        x = rows.new_zeros(rows.shape[0], self.config.count, self.config.dim)
        tokens = Tokens(torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]))
        ctx = PlacedContext(tokens.positions, [Group(tokens, tokens, aligned=True)], grid=seen.grid, maps=seen.maps)
        ctx.places, ctx.memory_places = self.query.weight[None], places.to(rows.dtype)
        with_memory(ctx, rows, seen.groups[0].k_valid, None)
        return x, ctx


# ------------------------------------------------------------------------------------------------- heads


class ConvGroup(nn.Module):
    """A convolution that keeps the size, and a norm over groups of channels. (B, C, h, w) -> (B, out, h, w)"""

    def __init__(self, dim: int, out: int, kernel: int, groups: int, *, bias: bool):
        super().__init__()
        self.conv = nn.Conv2d(dim, out, kernel, padding=kernel // 2, bias=bias)
        self.norm = nn.GroupNorm(groups, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@dataclass(frozen=True, kw_only=True)
class BoxMasksHeadConfig(BoxesHeadConfig):
    """Labels and boxes, and a mask per query: where it looks, in `num_heads` ways, refined through finer and finer
    maps, `widths` channels each from the coarsest (2005.12872, 4.4)."""

    num_heads: int
    widths: tuple[int, ...]
    activation: Activation = "relu"


@builds(BoxMasksHeadConfig)
class BoxMasksHead(BoxesHead):
    """Also `pred_masks` (B, queries, height, width), of the size of the finest map."""

    def __init__(self, config: BoxMasksHeadConfig, dim: int):
        super().__init__(config, dim)
        self.heads, self.activation = config.num_heads, ACTIVATIONS[config.activation]
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        first = dim + config.num_heads
        dims = [dim // 2 ** (i + 1) for i in range(len(config.widths) + 1)]
        wrong = [n for n in (first, *dims) if n < 1 or n % min(8, n)]
        if wrong or dim % config.num_heads:
            raise ValueError(f"a mask head of {dim} channels and {config.num_heads} heads; allowed: such as 256 and 8")
        self.mix = nn.ModuleList(_group(a, b) for a, b in ((first, first), (first, dims[0])))
        self.adapt = nn.ModuleList(nn.Conv2d(width, d, 1) for width, d in zip(config.widths, dims, strict=False))
        self.refine = nn.ModuleList(_group(a, b) for a, b in pairwise(dims))
        self.out = nn.Conv2d(dims[-1], 1, 3, padding=1)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        return {**super().forward(hidden, ends), "pred_masks": self.masks(hidden, ends.ctx)}

    def masks(self, hidden: Tensor, ctx: Context) -> Tensor:
        """Scores of every place for every query (B, Q, height, width)."""
        assert ctx.memory is not None
        q, k = (part.unflatten(-1, (self.heads, -1)) for part in (self.q(hidden), self.k(ctx.memory)))
        scores = torch.einsum("bqhd,bshd->bqhs", q * q.shape[-1] ** -0.5, k)
        valid = ctx.memory_groups[0].k_valid
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None], -math.inf)
        weights = scores.flatten(2).softmax(-1).view_as(scores)  # of one query, all heads and places together
        *finer, last = ctx.maps
        looks = weights.unflatten(-1, tuple(last.shape[2:]))
        x = torch.cat([last[:, None].expand(-1, hidden.shape[1], -1, -1, -1), looks], 2).flatten(0, 1)
        for mix in self.mix:
            x = self.activation(mix(x))
        for adapt, refine, fine in zip(self.adapt, self.refine, reversed(finer), strict=True):
            side = adapt(fine).repeat_interleave(hidden.shape[1], 0)
            x = self.activation(refine(side + F.interpolate(x, size=side.shape[2:])))
        return self.out(x)[:, 0].unflatten(0, hidden.shape[:2])


def _group(dim: int, out: int) -> ConvGroup:
    return ConvGroup(dim, out, 3, min(8, out), bias=True)


# ------------------------------------------------------------------------------------------------- files


def layers(raw: Raw, side: str) -> StackConfig:
    """The layers of a side, "encoder" or "decoder"; what the decoder leaves is normed."""
    dim, heads = raw.integer("d_model"), raw.integer(f"{side}_attention_heads")
    attention = PlacedAttentionConfig(
        num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attention_dropout")
    )
    feed_forward = FeedForwardConfig(
        hidden_dim=raw.integer(f"{side}_ffn_dim"),
        activation=raw.activation("activation_function", "relu"),
        dropout=raw.rate("activation_dropout"),
    )
    each = LayerConfig(
        norm=NormConfig(),
        order="post",
        attention=attention,
        cross=attention if side == "decoder" else None,
        feed_forward=feed_forward,
        dropout=raw.rate("dropout"),
    )
    every, count = raw.flag("auxiliary_loss", False), raw.layers(f"{side}_layers")
    if side == "encoder":
        return StackConfig(dim=dim, layers=(each,) * count)
    kind = NormedStackConfig if every else StackConfig
    return kind(dim=dim, layers=(each,) * count, final_norm=NormConfig())


def queries(raw: Raw, memory_dim: int) -> TowerConfig:
    """Queries, and the layers in which they look at rows of `memory_dim` channels."""
    dim = raw.integer("d_model")
    if dim % 4:
        raise ValueError(f"{raw.where}: d_model is {dim}; allowed: a multiple of 4, for sines and cosines both ways")
    front = QueriesConfig(count=raw.integer("num_queries", high=2**16), dim=dim, memory_dim=memory_dim)
    return TowerConfig(front=front, stack=layers(raw, "decoder"))


def under(rules: list[Rule], disk: str, *, read_only: bool = False) -> list[Rule]:
    """The same rules where the keys stand below `disk`."""
    return [
        dataclasses.replace(
            rule, disk=tuple(disk + key for key in rule.disk_keys), read_only=read_only or rule.read_only
        )
        for rule in rules
    ]


def layer_rules(disk: str, ours: str) -> list[Rule]:
    """Keys of the layers of a side, as on disk and as in the reference's memory."""
    disk, ours = f"{disk}layers.*.", f"{ours}stack.layers.*."
    rules = []
    for theirs, mine in {"self_attn": "attn", "encoder_attn": "cross"}.items():
        names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
        rules += [Rule(f"{disk}{theirs}.{name}.@", f"{ours}{mine}.fn.{part}.@") for name, part in names.items()]
        rules.append(Rule(f"{disk}{theirs}.o_proj.@", f"{ours}{mine}.fn.out.@", read_only=True))
        rules.append(Rule(f"{disk}{theirs}_layer_norm.@", f"{ours}{mine}.norm.@"))
    for theirs, mine in {"fc1": "up", "fc2": "down"}.items():
        rules.append(Rule(f"{disk}{theirs}.@", f"{ours}ffn.fn.{mine}.@"))
        rules.append(Rule(f"{disk}mlp.{theirs}.@", f"{ours}ffn.fn.{mine}.@", read_only=True))
    return [*rules, Rule(f"{disk}final_layer_norm.@", f"{ours}ffn.norm.@")]
