"""Configs of encoders of images whose grid grows coarser from stage to stage, and of heads that read every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from regard.config.layer import AttentionConfig, FeedForwardConfig, StackConfig
from regard.config.model import HeadConfig
from regard.config.vision import PatchesConfig, PooledHeadConfig


@dataclass(frozen=True, kw_only=True)
class OverlapPatchesConfig(PatchesConfig):
    """Patches that begin every `stride` pixels, the image framed by zeros half a patch wide (2105.15203, 3.1).

    `least`: the smallest image (height, width), so that later stages have something left to look at.
    """

    stride: tuple[int, int]
    positions: Literal["learned", "fixed", "none"] = "none"
    least: tuple[int, int] = (1, 1)

    def check(self) -> None:
        self.require(all(n > 0 for n in self.stride), "stride", "two numbers above 0")
        self.require(self.positions == "none", "positions", "none")
        super().check()


def least_side(stages: Sequence[tuple[int, int, int]]) -> int:
    """The shortest side of an image that leaves every stage, given as (patch, stride, ratio), one square of keys."""
    side = 1
    for patch, stride, ratio in reversed(stages):
        side = max(1, (max(side, ratio) - 1) * stride + patch % 2)
    return side


@dataclass(frozen=True, kw_only=True)
class ReducedAttentionConfig(AttentionConfig):
    """Queries of every patch; keys and values of squares of `ratio` x `ratio` patches (2102.12122, 3.3)."""

    ratio: int

    def check(self) -> None:
        self.require(1 < self.ratio <= 1024, "ratio", "2 to 1024")
        super().check()


@dataclass(frozen=True, kw_only=True)
class MixFeedForwardConfig(FeedForwardConfig):
    """A feed-forward whose inner channels each look at the 3 x 3 patches around; this tells where a patch is
    (2105.15203, 3.1)."""


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(StackConfig):
    """Stages one after another; `between` has the patches that each but the first makes of the one before."""

    stages: tuple[StackConfig, ...]
    between: tuple[PatchesConfig, ...]

    def check(self) -> None:
        super().check()
        ok = len(self.stages) == len(self.between) + 1 and self.stages[-1].dim == self.dim
        self.require(ok, "stages", f"{len(self.between) + 1} of them, the last of width {self.dim}")


@dataclass(frozen=True, kw_only=True)
class MapFeaturesConfig(PooledHeadConfig):
    """The last stage's map (B, C, height, width) as `last_hidden_state`, and a pooled vector."""


@dataclass(frozen=True, kw_only=True)
class SemanticHeadConfig(HeadConfig):
    """A label for every place of the first stage's grid, from the maps of all stages (2105.15203, 3.2).

    `widths` are the stages' channels, `dim` what each is brought to.
    """

    num_labels: int
    widths: tuple[int, ...]
    dim: int
    dropout: float = 0.0

    def check(self) -> None:
        self.require(0 < self.num_labels <= 2**20, "num_labels", "1 to 1048576")
        self.require(self.dim > 0, "dim", "at least 1")
        self.require(all(n > 0 for n in self.widths) and len(self.widths) > 0, "widths", "at least one number above 0")
