"""What sees: images and video -> patches -> vectors and their context; heads for boxes and pooled features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import SinusoidalPositions
from regard.config.vision import (
    AttentionPoolConfig,
    BoxesHeadConfig,
    ContrastiveHeadConfig,
    ImageTextConfig,
    LookingConfig,
    PatchClassifierConfig,
    PatchesConfig,
    PoolConfig,
    PooledHeadConfig,
)
from regard.nn.attention import dropped
from regard.nn.build import build, builds
from regard.nn.cache import KVCache
from regard.nn.context import Context, packed, padded, with_memory
from regard.nn.frontend import Embedding
from regard.nn.head import Ends
from regard.nn.layer import Sublayer
from regard.nn.position import sinusoids


@builds(PatchesConfig)
class Patches(nn.Module):
    """Patches projected, learned tokens around them, positions added. Tables of tokens are (count, C)."""

    def __init__(self, config: PatchesConfig):
        super().__init__()
        c = self.config = config
        self.least = c.patch
        conv = nn.Conv3d if len(c.patch) == 3 else nn.Conv2d
        self.proj = conv(c.channels, c.dim, c.patch, c.patch, bias=c.bias)  # type: ignore[arg-type]
        self.before = _table(c.before, c.dim)
        self.registers = _table(c.registers, c.dim)
        self.after = _table(c.after, c.dim)
        self.masked = _table(int(c.masking), c.dim)
        self.position = _table(c.before + c.patches + c.after if c.positions == "learned" else 0, c.dim)
        self.norm = build(c.norm, c.dim) if c.norm is not None else None

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> tuple[Tensor, Context]:
        """pixel_values (B, channels, height, width), or for video (B, frames, channels, height, width) -> (B, T, C).

        Patches run row by row; what is left over at the right and at the bottom is not seen. Positions are resampled
        for other sizes than the trained one, which `interpolate_pos_encoding=False` refuses. Patches that are true in
        `bool_masked_pos` (B, patches) are hidden.
        Raises ValueError for other shapes and types.
        """
        c = self.config
        x = self.proj(self.checked(pixel_values, interpolate_pos_encoding))
        grid = tuple(x.shape[2:])
        x = x.flatten(2).mT  # (B, patches, C)
        if bool_masked_pos is not None:
            if self.masked is None or bool_masked_pos.shape != x.shape[:2]:
                raise ValueError(
                    f"bool_masked_pos is {tuple(bool_masked_pos.shape)}; allowed: "
                    + (f"{tuple(x.shape[:2])}" if self.masked is not None else "None, as this model has no mask token")
                )
            x = torch.where(bool_masked_pos.bool()[..., None], self.masked.weight.to(x.dtype), x)
        x = _together(self.before, x, self.after)
        if c.positions == "fixed":
            places = torch.arange(x.shape[1], device=x.device)
            x = x + sinusoids(places, c.dim, SinusoidalPositions(size=c.patches)).to(x.dtype)
        elif self.position is not None:
            x = x + self.places(self.position.weight, grid)
        if self.registers is not None:
            x = torch.cat([x[:, : c.before], _together(self.registers, x[:, c.before :], None)], 1)
        x = dropped(x if self.norm is None else self.norm(x), c.dropout, self.training)
        return x, on_grid(x, grid)

    def places(self, table: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Learned positions (tokens and patches, C) for a grid of another size: what families do each in their way."""
        return resampled(table, self.config.grid, grid, self.config.before, antialias=self.config.antialias)

    def checked(self, pixels: Tensor, resample: bool | None) -> Tensor:
        """Pixels (B, channels, [frames,] height, width) in the type of the weights."""
        c, video = self.config, len(self.config.patch) == 3
        if pixels.ndim != len(c.patch) + 2 or pixels.shape[0] == 0 or not pixels.is_floating_point():
            shape = "(batch, frames, channels, height, width)" if video else "(batch, channels, height, width)"
            raise ValueError(f"pixel_values is {tuple(pixels.shape)} of {pixels.dtype}; allowed: {shape} of float")
        pixels = pixels.transpose(1, 2) if video else pixels
        size = tuple(pixels.shape[2:])
        if pixels.shape[1] != c.channels or any(n < p for n, p in zip(size, self.least, strict=True)):
            least = " x ".join(map(str, self.least))
            raise ValueError(
                f"pixel_values has {pixels.shape[1]} channels of {' x '.join(map(str, size))}; "
                f"allowed: {c.channels} channels of at least {least}"
            )
        if size != c.size and (resample is False or c.positions == "fixed" or (video and c.positions == "learned")):
            raise ValueError(
                f"pixel_values is of {' x '.join(map(str, size))}; allowed: {' x '.join(map(str, c.size))}"
            )
        return pixels.to(self.proj.weight.dtype)


def _table(count: int, dim: int) -> nn.Embedding | None:
    return nn.Embedding(count, dim) if count else None


def _together(before: nn.Embedding | None, x: Tensor, after: nn.Embedding | None) -> Tensor:
    """Learned tokens, the same for every row, around x (B, T, C)."""
    tables = [None if table is None else table.weight.expand(x.shape[0], -1, -1) for table in (before, after)]
    parts = [part for part in (tables[0], x, tables[1]) if part is not None]
    return torch.cat(parts, 1) if len(parts) > 1 else x


def on_grid(x: Tensor, grid: tuple[int, ...]) -> Context:
    """The context of vectors (B, T, C) that are all real, patches of a `grid` among them."""
    ctx = padded(torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]), aligned=True)
    ctx.grid = grid
    return ctx


def resampled(
    table: Tensor, old: tuple[int, ...], new: tuple[int, ...], before: int, *, antialias: bool = False
) -> Tensor:
    """Positions (before + patches + after, C) of one grid -> of another, bicubic, in float32; the others stay."""
    if old == new:
        return table
    patches = old[0] * old[1]
    first, grid, last = table.split([before, patches, table.shape[0] - before - patches])
    image = grid.float().unflatten(0, old).permute(2, 0, 1)[None]  # (1, C, height, width)
    image = F.interpolate(image, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([first, image[0].flatten(1).mT.to(table.dtype), last])


@builds(ImageTextConfig)
class ImageText(Embedding):
    """Token vectors, those of images in their places."""

    def __init__(self, config: ImageTextConfig):
        super().__init__(config)
        self.images = config
        self.vision = build(config.vision)
        self.connect = build(config.connect, config.vision.stack.dim)
        self.connect_out = nn.Linear(config.connect.dim, config.dim, config.connect.bias)

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
    ) -> tuple[Tensor, Context]:
        """As in `Embedding.forward`, and pixel_values (images, channels, height, width), in the order of their places.

        Raises ValueError unless the images have as many vectors as input_ids has places for them.
        """
        layout: dict[str, Any] = {"position_ids": position_ids, "token_type_ids": token_type_ids}
        layout |= {"lengths": lengths, "cache": cache}
        if pixel_values is None:
            return super().forward(input_ids, attention_mask, inputs_embeds=inputs_embeds, **layout)
        if input_ids is None:
            raise ValueError("pixel_values needs input_ids, which say where images stand")
        vectors = self.token(input_ids) * self.config.scale
        places, seen = input_ids == self.images.image_token, self.see(pixel_values).flatten(0, 1)
        if int(places.sum()) != seen.shape[0]:
            raise ValueError(
                f"input_ids has {int(places.sum())} tokens {self.images.image_token} for images; allowed: "
                f"{seen.shape[0]}, as pixel_values {tuple(pixel_values.shape)} gives so many vectors"
            )
        vectors = vectors.masked_scatter(places[..., None], seen.to(vectors.dtype))
        x, ctx = super().forward(None, attention_mask, inputs_embeds=vectors, **layout)
        ctx.ids = input_ids
        return x, ctx

    def see(self, pixel_values: Tensor) -> Tensor:
        """Images (B, channels, height, width) -> vectors (B, places, C)."""
        hidden, _ = self.vision(pixel_values)
        return self.connect_out(self.connect(hidden[:, self.images.skip :]))


@builds(LookingConfig)
class Looking(Embedding):
    """Token vectors, an image in memory beside them."""

    def __init__(self, config: LookingConfig):
        super().__init__(config)
        self.vision = build(config.vision)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **layout: Any,
    ) -> tuple[Tensor, Context]:
        """As in `Embedding.forward`, and pixel_values (B, channels, height, width), one image for each sequence."""
        if pixel_values is None:
            raise ValueError("pixel_values is missing; this model reads every text beside an image")
        x, ctx = super().forward(input_ids, attention_mask, **layout)
        seen, _ = self.vision(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        rows = x.shape[0] if ctx.lengths is None else len(ctx.lengths)
        if seen.shape[0] != rows:
            raise ValueError(f"pixel_values holds {seen.shape[0]} images; allowed: {rows}, one for each text")
        packed_images = None if ctx.lengths is None else [seen.shape[1]] * rows
        return x, with_memory(ctx, seen if packed_images is None else seen.flatten(0, 1), None, packed_images)


@builds(PoolConfig)
class Pool(nn.Module):
    """One vector per sequence: (B, T, C) or packed (N, C) -> (B, dim)."""

    def __init__(self, config: PoolConfig, dim: int):
        super().__init__()
        self.token = config.token
        self.norm = build(config.norm, dim) if config.norm is not None else None
        self.dense = build(config.dense, dim) if config.dense is not None else None

    def forward(self, hidden: Tensor, ends: Ends) -> Tensor:
        x = ends.pool(hidden, self.token)
        x = x if self.norm is None else self.norm(x)
        return x if self.dense is None else self.dense(x)


@builds(AttentionPoolConfig)
class AttentionPool(nn.Module):
    """One vector per sequence, by a learned query: (B, T, C) or packed (N, C) -> (B, C)."""

    def __init__(self, config: AttentionPoolConfig, dim: int):
        super().__init__()
        cross, feed_forward = config.layer.cross, config.layer.feed_forward
        assert cross is not None and feed_forward is not None
        self.query = nn.Embedding(1, dim)
        self.cross = build(cross, dim, dim)
        self.ffn = Sublayer(build(feed_forward, dim), config.layer, dim)

    def forward(self, hidden: Tensor, ends: Ends) -> Tensor:
        ctx = ends.ctx
        rows = hidden.shape[0] if ctx.lengths is None else len(ctx.lengths)
        query = self.query.weight.expand(rows, 1, -1)
        asks = packed([1] * rows, hidden.device) if ctx.lengths is not None else on_grid(query, ())
        with_memory(asks, hidden, ctx.groups[0].k_valid, ctx.lengths)
        x = self.cross(query.flatten(0, 1) if ctx.lengths is not None else query, asks)
        return self.ffn(x, asks).reshape(rows, -1)


@builds(PooledHeadConfig)
class PooledHead(nn.Module):
    """Hidden states themselves, and a vector for each sequence."""

    def __init__(self, config: PooledHeadConfig, dim: int):
        super().__init__()
        self.output = config.output
        self.pool = build(config.pool, dim)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        return {self.output: self.pool(hidden, ends)}


@builds(PatchClassifierConfig)
class PatchClassifier(nn.Module):
    """The mean over patches, with the first token beside it or without -> `logits` (B, labels)."""

    def __init__(self, config: PatchClassifierConfig, dim: int):
        super().__init__()
        self.config = config
        self.norm = build(config.norm, dim) if config.norm is not None else None
        self.out = nn.Linear(2 * dim if config.with_first else dim, config.num_labels, config.bias)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        x = hidden[:, self.config.skip :].mean(1)
        x = x if self.norm is None else self.norm(x)
        if self.config.with_first:
            x = torch.cat([hidden[:, 0], x], -1)
        return {"logits": self.out(dropped(x, self.config.dropout, self.training))}


class Linears(nn.Module):
    """Linears with ReLU between them. (..., C) -> (..., out)."""

    def __init__(self, dim: int, out: int, count: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim if i < count - 1 else out) for i in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


@builds(BoxesHeadConfig)
class BoxesHead(nn.Module):
    """`logits` (B, queries, labels + 1) and `pred_boxes` (B, queries, 4)."""

    def __init__(self, config: BoxesHeadConfig, dim: int):
        super().__init__()
        self.queries = config.queries
        self.labels = Linears(dim, config.num_labels + 1, config.label_layers)
        self.boxes = Linears(dim, 4, config.box_layers)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        x = hidden[:, -self.queries :]
        return {"logits": self.labels(x), "pred_boxes": self.boxes(x).sigmoid()}


@builds(ContrastiveHeadConfig)
class ContrastiveHead(nn.Module):
    """Pools of images and of texts, and how alike they are."""

    def __init__(self, config: ContrastiveHeadConfig, vision_dim: int, text_dim: int):
        super().__init__()
        self.image = build(config.image, vision_dim)
        self.text = build(config.text, text_dim)
        self.scale = nn.Parameter(torch.full((), config.scale))
        self.bias = nn.Parameter(torch.zeros(())) if config.bias else None

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Vectors of images (M, D) and texts (N, D) -> `logits_per_image` (M, N), and the same by text; both normed."""
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        logits = text @ image.mT * self.scale.exp()
        logits = logits if self.bias is None else logits + self.bias
        return {"logits_per_image": logits.mT, "logits_per_text": logits, "text_embeds": text, "image_embeds": image}
