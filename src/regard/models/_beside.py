"""Images beside words: a few vectors made of each, in a memory of which every word sees the images it is told to.

Bricks without any family's ways, to go among those of all once a second family is built of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regard.config import MAX_SIZE, Config, EmbeddingConfig, LayerConfig, StackConfig, TowerConfig
from regard.nn import Context, Embedding, Group, KVCache, Layer, Tokens, build, builds
from regard.nn.context import with_memory
from regard.senses.vision import on_grid


@dataclass(frozen=True, kw_only=True)
class ResamplingLayerConfig(LayerConfig):
    """`cross` looks at the memory and at the layer's own tokens together; the memory has a norm of its own."""

    def check(self) -> None:
        ok = self.cross is not None and self.feed_forward is not None and self.attention is None
        self.require(ok, "cross", "given, with feed_forward and without attention")
        self.require(self.order == "pre", "order", "'pre'")


@builds(ResamplingLayerConfig)
class ResamplingLayer(Layer):
    """Tokens (B, T, C) look at the memory of their context and at themselves."""

    def __init__(self, config: ResamplingLayerConfig, dim: int):
        super().__init__(config, dim)
        self.memory_norm = build(config.norm, config.memory_dim or dim)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert ctx.memory is not None
        both = torch.cat([self.memory_norm(ctx.memory), self.cross.norm(x)], 1)
        asks = with_memory(on_grid(x, ()), both, None, None)
        return self.ffn(self.cross(x, asks), asks)


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig(Config):
    """Any number of vectors -> `count` of them: learned queries that look at them again and again (2204.14198, 3.1)."""

    count: int
    stack: StackConfig

    def check(self) -> None:
        self.require(0 < self.count <= MAX_SIZE, "count", f"1 to {MAX_SIZE}")
        ok = all(isinstance(layer, ResamplingLayerConfig) for layer in self.stack.layers)
        self.require(ok, "stack", "layers that are ResamplingLayerConfig")


@builds(ResamplerConfig)
class Resampler(nn.Module):
    """(B, S, C) -> (B, count, C), whatever S."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        self.query = nn.Embedding(config.count, config.stack.dim)
        self.stack = build(config.stack)

    def forward(self, seen: Tensor) -> Tensor:
        x = self.query.weight.expand(seen.shape[0], -1, -1)
        found: Tensor = self.stack(x, with_memory(on_grid(x, ()), seen, None, None))
        return found


@dataclass(frozen=True, kw_only=True)
class ImagesBesideConfig(EmbeddingConfig):
    """Words, and several images per sequence that cross-attention looks at, each word at those that it is told to.

    The cross-attention must have no bias on keys and values, so that a word that sees no image adds nothing.
    """

    vision: TowerConfig
    resampler: ResamplerConfig | None = None


@builds(ImagesBesideConfig)
class ImagesBeside(Embedding):
    """Token vectors, and images in memory beside them, with a last vector of zeros for words that see none."""

    by_token = ("image_attention_mask",)
    """Inputs that have a row for each token."""

    def __init__(self, config: ImagesBesideConfig):
        super().__init__(config)
        self.vision = build(config.vision)
        self.resampler = build(config.resampler) if config.resampler is not None else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        cache: KVCache | None = None,
        pixel_values: Tensor | None = None,
        image_attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> tuple[Tensor, Context]:
        """As in `Embedding.forward`, and pixel_values (B, images, channels, height, width).

        image_attention_mask (B, T, images), or packed (N, images), is true where a token may look at an image; without
        it every token sees all of them. With a `cache` images come with the first tokens, and later ones see what the
        last one saw, unless told otherwise.
        """
        layout: dict[str, Any] = {"position_ids": position_ids, "token_type_ids": token_type_ids}
        layout |= {"inputs_embeds": inputs_embeds, "lengths": lengths, "cache": cache}
        held = None if cache is None else cache.sight
        if held is not None and pixel_values is not None:
            raise ValueError("pixel_values: the cache holds images; pass them with the first tokens alone")
        seen = None if pixel_values is None else self.see(pixel_values, interpolate_pos_encoding)
        x, ctx = super().forward(input_ids, attention_mask, **layout)
        if held is not None:
            sight = held[:, None].expand(-1, x.shape[1], -1)
            if image_attention_mask is not None:
                sight = self._sight(image_attention_mask, x, held.shape[1] - 1, image_attention_mask.shape[-1])
            keys = Tokens(torch.arange(sight.shape[2], device=x.device)[None])
            ctx.memory_groups = [Group(ctx.groups[0].q, keys, seen=sight)]
        else:
            sight = self._remember(ctx, x, seen, image_attention_mask)
        if cache is not None:
            cache.sight = sight[_last(sight, lengths, attention_mask)]
        return x, ctx

    def see(self, pixel_values: Tensor, resample: bool | None = None) -> Tensor:
        """Images (B, images, channels, height, width) -> vectors (B, images, each, C)."""
        if pixel_values.ndim != 5 or 0 in pixel_values.shape[:2] or not pixel_values.is_floating_point():
            shape = "(batch, images, channels, height, width) of float"
            raise ValueError(f"pixel_values is {tuple(pixel_values.shape)} of {pixel_values.dtype}; allowed: {shape}")
        hidden, _ = self.vision(pixel_values.flatten(0, 1), interpolate_pos_encoding=resample)
        hidden = hidden if self.resampler is None else self.resampler(hidden)
        return hidden.unflatten(0, pixel_values.shape[:2])

    def _remember(self, ctx: Context, x: Tensor, seen: Tensor | None, mask: Tensor | None) -> Tensor:
        """Put images (B, images, each, C), if there are any, into memory; what each token sees of it, (..., S)."""
        rows = x.shape[0] if ctx.lengths is None else len(ctx.lengths)
        if seen is None:
            if mask is not None:
                raise ValueError("image_attention_mask needs pixel_values, the images that it speaks of")
            dim = self.vision.stack.config.dim
            seen = x.new_zeros(rows, 0, 1, dim)
        if seen.shape[0] != rows:
            raise ValueError(f"pixel_values holds images for {seen.shape[0]} texts; allowed: {rows}, for each text")
        images, width = seen.shape[1], seen.shape[1] * seen.shape[2]
        mask = x.new_ones(*x.shape[:-1], images) if mask is None else mask
        sight = self._sight(mask, x, width, images)
        memory = torch.cat([seen.flatten(1, 2), seen.new_zeros(rows, 1, seen.shape[3])], 1)
        if ctx.lengths is None:
            with_memory(ctx, memory, None, None)
        else:
            with_memory(ctx, memory.flatten(0, 1), None, [width + 1] * rows)
        shapes = [group.q.positions.shape for group in ctx.groups]
        views = sight.flatten(0, -2).split([n * t for n, t in shapes])
        for group, view, shape in zip(ctx.memory_groups, views, shapes, strict=True):
            group.seen = view.unflatten(0, shape)
        return sight

    def _sight(self, mask: Tensor, x: Tensor, width: int, images: int) -> Tensor:
        """A mask of images (..., images) -> one of their `width` vectors in all, and of none, (..., width + 1)."""
        if mask.shape != (*x.shape[:-1], images) or (images and width % images):
            allowed = " x ".join(map(str, (*x.shape[:-1], images)))
            raise ValueError(f"image_attention_mask is {tuple(mask.shape)}; allowed: {allowed}, tokens by images")
        mask = mask.to(x.device).bool()
        each = mask.repeat_interleave(width // images, -1) if images else mask
        return torch.cat([each, ~mask.any(-1, keepdim=True)], -1)


def _last(sight: Tensor, lengths: Sequence[int] | None, mask: Tensor | None) -> Any:
    """Where the last real token of each row is."""
    if lengths is not None:
        return torch.tensor(list(lengths), device=sight.device).cumsum(0) - 1
    rows = torch.arange(sight.shape[0], device=sight.device)
    return rows, -1 if mask is None else mask.to(sight.device).long().sum(1).clamp(min=1) - 1
