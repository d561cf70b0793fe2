"""Configs of what hears: log-mel frames, waveforms, and the head that spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.config.base import Config
from regard.config.layer import Activation, NormConfig
from regard.config.model import TokenHeadConfig


@dataclass(frozen=True, kw_only=True)
class RunsConfig(Config):
    """Runs of `span` neighbours that are hidden while training, at least `least` of them: about `part` of all, and less
    where they overlap (SpecAugment, 1904.08779)."""

    part: float
    span: int
    least: int = 0

    def check(self) -> None:
        self.require(0 <= self.part <= 1, "part", "0 to 1")
        self.require(self.span > 0, "span", "at least 1")


@dataclass(frozen=True, kw_only=True)
class MelConfig(Config):
    """Log-mel frames -> two convolutions over 3 frames, the second of stride 2 -> vectors (2212.04356, 2.2).

    `size` positions, sinusoids when new, lie among the weights and are not trained. `hidden_moments` and
    `hidden_channels` of the frames are silent while training.
    """

    num_mels: int
    dim: int
    size: int
    dropout: float = 0.0
    hidden_moments: RunsConfig | None = None
    hidden_channels: RunsConfig | None = None

    def check(self) -> None:
        self.require(self.num_mels > 0, "num_mels", "at least 1")
        self.require(self.dim > 2 and self.dim % 2 == 0, "dim", "an even number above 2")
        self.require(self.size > 0, "size", "at least 1")


@dataclass(frozen=True, kw_only=True)
class WaveformConfig(Config):
    """Samples -> strided convolutions -> norm -> projection + convolutional positions -> norm (2006.11477, 2).

    `convs` are (channels, kernel, stride). `conv_norm`: each channel over time after the first one ("group"), or all
    channels of a frame after every one ("layer"). `masking` adds a learned vector that stands for hidden frames; while
    training, `hidden_moments` get it, and `hidden_channels` of all vectors are 0.
    """

    dim: int
    convs: tuple[tuple[int, int, int], ...]
    conv_bias: bool = False
    conv_norm: Literal["group", "layer"] = "group"
    activation: Activation = "gelu"
    feature_norm: NormConfig | None = None
    feature_dropout: float = 0.0
    position_kernel: int
    position_groups: int
    masking: bool = False
    norm: NormConfig | None = None
    dropout: float = 0.0
    hidden_moments: RunsConfig | None = None
    hidden_channels: RunsConfig | None = None

    def check(self) -> None:
        self.require(self.masking or self.hidden_moments is None, "hidden_moments", "None without masking")
        ok = 0 < len(self.convs) <= 64 and all(n > 0 for conv in self.convs for n in conv)
        self.require(ok, "convs", "1 to 64 of (channels, kernel, stride), all above 0")
        self.require(self.position_kernel > 0, "position_kernel", "at least 1")
        ok = self.position_groups > 0 and self.dim > 0 and self.dim % self.position_groups == 0
        self.require(ok, "position_groups", f"a divisor of dim = {self.dim}")


@dataclass(frozen=True, kw_only=True)
class CTCHeadConfig(TokenHeadConfig):
    """Letters or other units per frame, `blank` among them, to be joined by CTC (Graves et al. 2006)."""

    blank: int = 0
