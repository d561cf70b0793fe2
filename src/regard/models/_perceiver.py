"""The bricks of Flamingo as IDEFICS rebuilt it: its perceiver's config and keys, and two ways of its files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.config import AttentionConfig, FeedForwardConfig, NormConfig, StackConfig
from regard.config.vision import PatchesConfig
from regard.models._beside import ResamplerConfig, ResamplingLayerConfig
from regard.models.base import Op, Raw, Rule
from regard.nn import builds
from regard.senses.vision import Patches


@dataclass(frozen=True)
class Stacked(Op):
    """Two tables, of the plain words and of those added later <-> one."""

    sizes: tuple[int, int]

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(parts)]

    def write(self, parts: list[Tensor]) -> list[Tensor]:
        return list(parts[0].split(self.sizes))


@dataclass(frozen=True, kw_only=True)
class ScaledPatchesConfig(PatchesConfig):
    """Patches whose positions are resampled as if a tenth of a patch were added each way."""


@builds(ScaledPatchesConfig)
class ScaledPatches(Patches):
    def places(self, table: Tensor, grid: tuple[int, ...]) -> Tensor:
        old = self.config.grid
        if grid == old:
            return table
        image = table[1:].mT.unflatten(1, old)[None].float()
        factor = [(n + 0.1) / m for n, m in zip(grid, old, strict=True)]
        image = F.interpolate(image, scale_factor=factor, mode="bicubic", align_corners=False)
        return torch.cat([table[:1], image[0].flatten(1).mT.to(table.dtype)])


def resampler(raw: Raw, dim: int) -> ResamplerConfig:
    """The perceiver that makes a few vectors of an image's."""
    norm = NormConfig()
    layer = ResamplingLayerConfig(
        norm=norm,
        cross=AttentionConfig(
            num_heads=raw.integer("resampler_n_heads", 16, high=2**12),
            head_dim=raw.integer("resampler_head_dim", 96, high=2**14),
            bias=(False,) * 4,
            qk_norm=norm if raw.flag("qk_layer_norms_perceiver", False) else None,
        ),
        feed_forward=FeedForwardConfig(hidden_dim=4 * dim, activation="relu", bias=False),
    )
    stack = StackConfig(dim=dim, layers=(layer,) * raw.layers("resampler_depth", 6), final_norm=norm)
    return ResamplerConfig(count=raw.integer("resampler_n_latents", 64, high=2**16), stack=stack)


def resampler_rules() -> list[Rule]:
    """Keys of the perceiver."""
    disk, ours = "perceiver_resampler.", "decoder.front.resampler."
    layer = {
        "0.context_layer_norm": "memory_norm",
        "0.latents_layer_norm": "cross.norm",
        "0.output_proj": "cross.fn.out",
    }
    layer |= {f"0.{p}_proj": f"cross.fn.{p}" for p in "qkv"}
    layer |= {f"0.{p}_layer_norm": f"cross.fn.{p}_norm" for p in "qk"}
    layer |= {"1.ln": "ffn.norm", "1.fc": "ffn.fn.up", "1.c_proj": "ffn.fn.down"}
    return [
        Rule(f"{disk}latents", f"{ours}query.weight"),
        Rule(f"{disk}layer_norm.@", f"{ours}stack.norm.@"),
        *(Rule(f"{disk}blocks.*.{name}.@", f"{ours}stack.layers.*.{part}.@") for name, part in layer.items()),
    ]
