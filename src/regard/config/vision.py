"""Configs of what sees: patches of images and video, and heads for boxes, pooled features and image-text pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.config.base import MAX_SIZE, Config
from regard.config.layer import LayerConfig, NormConfig
from regard.config.model import (
    ClassifierHeadConfig,
    EmbeddingConfig,
    FeaturesHeadConfig,
    HeadConfig,
    ModelConfig,
    TowerConfig,
    TransformConfig,
)


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(Config):
    """Pixels -> patches, each projected to a vector (2010.11929), with learned tokens around them.

    `size` and `patch` are (height, width), or (frames, height, width) for video. `before` tokens (class, distillation)
    and `after` tokens (detection) have positions of their own; `registers` (2309.16588) follow those before and have
    none. Learned positions are resampled for other sizes, fixed sinusoids hold for `size` alone. `masking` adds a
    learned vector that stands for hidden patches.
    """

    dim: int
    size: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int = 3
    bias: bool = True
    before: int = 0
    registers: int = 0
    after: int = 0
    positions: Literal["learned", "fixed", "none"] = "learned"
    antialias: bool = False
    masking: bool = False
    norm: NormConfig | None = None
    dropout: float = 0.0

    def check(self) -> None:
        self.require(self.dim > 0, "dim", "at least 1")
        self.require(0 < self.channels <= 4096, "channels", "1 to 4096")
        ok = len(self.size) in (2, 3) and len(self.patch) == len(self.size) and all(n > 0 for n in self.patch)
        self.require(ok, "patch", "as many numbers above 0 as `size` has: 2, or 3 for video")
        self.require(all(n >= p for n, p in zip(self.size, self.patch, strict=True)), "size", "at least one patch")
        volume = self.channels * self.dim
        for n in self.patch:
            volume *= n
        self.require(volume <= 2**32, "patch", "channels * patch * dim at most 2 ** 32")
        self.require(self.patches + self.before + self.after <= MAX_SIZE, "size", f"at most {MAX_SIZE} patches")

    @property
    def grid(self) -> tuple[int, ...]:
        """How many patches there are each way."""
        return tuple(n // p for n, p in zip(self.size, self.patch, strict=True))

    @property
    def patches(self) -> int:
        """How many patches there are in all."""
        count = 1
        for n in self.grid:
            count *= n
        return count


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig(EmbeddingConfig):
    """Words, and images in the places of the id `image_token` (2304.08485).

    `vision` reads an image; all its vectors but the first `skip` go through `connect` and one more linear.
    """

    vision: TowerConfig
    connect: TransformConfig
    image_token: int
    skip: int = 0


@dataclass(frozen=True, kw_only=True)
class LookingConfig(EmbeddingConfig):
    """Words, and an image per sequence that cross-attention looks at while it reads them (2201.12086)."""

    vision: TowerConfig


@dataclass(frozen=True, kw_only=True)
class PoolConfig(Config):
    """One vector per sequence: a token, or the mean of all -> norm -> dense and activation, those that there are.

    `token`: first, last, the first end-of-sequence token, or the one of the highest id (older CLIP files name no
    usable end).
    """

    token: Literal["first", "last", "first_eos", "highest", "mean"] = "first"
    norm: NormConfig | None = None
    dense: TransformConfig | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionPoolConfig(Config):
    """One learned query looks at all tokens (`layer.cross`); a feed-forward branch follows (2303.15343)."""

    layer: LayerConfig

    def check(self) -> None:
        ok = self.layer.cross is not None and self.layer.feed_forward is not None and self.layer.attention is None
        self.require(ok, "layer", "cross and feed_forward alone")


@dataclass(frozen=True, kw_only=True)
class PooledHeadConfig(FeaturesHeadConfig):
    """Hidden states, and a pooled vector under the name `output`."""

    pool: Config
    output: Literal["pooler_output", "text_embeds", "image_embeds"] = "pooler_output"


@dataclass(frozen=True, kw_only=True)
class PatchClassifierConfig(ClassifierHeadConfig):
    """One label set per image, from the mean over its patches: all tokens but the first `skip`.

    `with_first` puts the first token's vector in front of the mean; `norm` follows the mean.
    """

    skip: int = 0
    with_first: bool = False
    norm: NormConfig | None = None


@dataclass(frozen=True, kw_only=True)
class BoxesHeadConfig(HeadConfig):
    """Label scores (the last label is "no object") and a box (x and y of the centre, width, height; 0 to 1) per query.

    The queries are the last `queries` tokens. `label_layers` and `box_layers` linears lead to each (2005.12872, 3.2).
    """

    num_labels: int
    queries: int
    label_layers: int = 1
    box_layers: int = 3

    def check(self) -> None:
        self.require(0 < self.num_labels <= 2**20, "num_labels", "1 to 1048576")
        self.require(self.queries > 0, "queries", "at least 1")
        self.require(0 < self.label_layers <= 64, "label_layers", "1 to 64")
        self.require(0 < self.box_layers <= 64, "box_layers", "1 to 64")


@dataclass(frozen=True, kw_only=True)
class ContrastiveHeadConfig(HeadConfig):
    """Images and texts, each pooled to a vector of one length, compared by cosine * exp(scale) (2103.00020, 2.3).

    `scale` is where the learned factor starts; `bias` adds a learned shift (2303.15343).
    """

    image: Config
    text: Config
    scale: float = 2.6592
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class DualConfig(ModelConfig):
    """Two towers side by side, one for images and one for text, whose results a head compares."""

    vision: TowerConfig
    text: TowerConfig

    def check(self) -> None:
        ok = self.encoder is None and self.decoder is None
        self.require(ok, "encoder", "None, as for decoder: the towers are vision and text")
        self.require(isinstance(self.head, ContrastiveHeadConfig), "head", "a ContrastiveHeadConfig")

    @property
    def widths(self) -> tuple[int, ...]:
        return self.vision.stack.dim, self.text.stack.dim


@dataclass(frozen=True, kw_only=True)
class QueriedConfig(ModelConfig):
    """An encoder that sees, and a decoder that begins with learned queries: all of the result comes at once."""

    def check(self) -> None:
        self.require(self.encoder is not None, "encoder", "a TowerConfig")
        self.require(self.decoder is not None, "decoder", "a TowerConfig")
