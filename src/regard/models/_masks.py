"""Bricks of MaskFormer (2107.06278): Swin's maps of every stage, and heads that make masks of them.

The mask of a query is how its vector agrees with those of the pixels, which come from the maps of all stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import HeadConfig, NormConfig
from regard.models._queries import ConvGroup
from regard.models._windows import (
    Stages,
    StagesConfig,
    WholePatches,
    WholePatchesConfig,
    WindowAttention,
    WindowAttentionConfig,
)
from regard.nn import Context, build, builds
from regard.nn.head import Ends
from regard.senses.pyramid import as_map
from regard.senses.vision import Linears


@dataclass(frozen=True, kw_only=True)
class SeenPatchesConfig(WholePatchesConfig):
    """Patches; padding counts as image."""


@builds(SeenPatchesConfig)
class SeenPatches(WholePatches):
    """Takes `pixel_mask`, and looks at what it hides: the reference does too."""

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, Context]:  # type: ignore[override]
        return super().forward(pixel_values)


@dataclass(frozen=True, kw_only=True)
class ShiftedAttentionConfig(WindowAttentionConfig):
    """Windows that are shifted even where one holds a whole side."""


@builds(ShiftedAttentionConfig)
class ShiftedAttention(WindowAttention):
    """(B, T, C) on a grid -> the same."""

    def shifted(self, grid: tuple[int, ...]) -> int:
        return self.shift


@dataclass(frozen=True, kw_only=True)
class NormedStagesConfig(StagesConfig):
    """Stages whose results are normed, each for itself."""


@builds(NormedStagesConfig)
class NormedStages(Stages):
    """(B, T, C) -> (B, fewer, more), the normed maps of all stages in the context."""

    def __init__(self, config: NormedStagesConfig):
        super().__init__(config)
        self.norms = nn.ModuleList(build(NormConfig(), stage.dim) for stage in config.stages)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        inner = ctx
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            if i:
                x, inner = self.merges[i - 1](x, inner)
            x = stage(x, inner)
            assert inner.grid is not None
            ctx.maps.append(as_map(norm(x), inner.grid))
        return norm(x)


@dataclass(frozen=True, kw_only=True)
class PixelsHeadConfig(HeadConfig):
    """Vectors of pixels, `out` channels each, from maps of `widths` channels, the finest first, brought to `inner`."""

    widths: tuple[int, ...]
    inner: int
    out: int


@dataclass(frozen=True, kw_only=True)
class MasksHeadConfig(PixelsHeadConfig):
    """Also labels of the queries (the last label is "nothing"), and their masks."""

    num_labels: int


class Finer(nn.Module):
    """A coarse map (B, C, h, w) and a finer one -> (B, C, ...) of the finer one's size."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.proj = ConvGroup(width, dim, 1, 32, bias=False)
        self.mix = ConvGroup(dim, dim, 3, 32, bias=False)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        fine = self.proj(fine)
        return self.mix(F.interpolate(coarse, size=fine.shape[2:]) + fine).relu()


@builds(PixelsHeadConfig)
class PixelsHead(nn.Module):
    """Vectors of queries and pixels, and the coarsest map, under the names that the reference gives them."""

    def __init__(self, config: PixelsHeadConfig, dim: int):
        super().__init__()
        *finer, last = config.widths
        self.first = ConvGroup(last, config.inner, 3, 32, bias=False)
        self.layers = nn.ModuleList(Finer(width, config.inner) for width in reversed(finer))
        self.out = nn.Conv2d(config.inner, config.out, 3, padding=1)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        *finer, last = ends.ctx.maps
        x = self.first(last).relu()
        for layer, fine in zip(self.layers, reversed(finer), strict=True):
            x = layer(x, fine)
        return {
            "encoder_last_hidden_state": last,
            "pixel_decoder_last_hidden_state": self.out(x),
            "transformer_decoder_last_hidden_state": hidden,
        }


@builds(MasksHeadConfig)
class MasksHead(PixelsHead):
    """`class_queries_logits` (B, Q, labels + 1) and `masks_queries_logits` (B, Q, height, width) of the finest map."""

    def __init__(self, config: MasksHeadConfig, dim: int):
        super().__init__(config, dim)
        self.labels = nn.Linear(dim, config.num_labels + 1)
        self.masks = Linears(dim, config.out, 3)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        found = super().forward(hidden, ends)
        masks = torch.einsum("bqc,bchw->bqhw", self.masks(hidden), found["pixel_decoder_last_hidden_state"])
        return {"class_queries_logits": self.labels(hidden), "masks_queries_logits": masks, **found}
