"""Configs of models in whose memory images stand beside the words that they read and write."""

from __future__ import annotations

from dataclasses import dataclass

from regard.config.base import MAX_SIZE, Config
from regard.config.layer import LayerConfig, StackConfig
from regard.config.model import EmbeddingConfig, TowerConfig


@dataclass(frozen=True, kw_only=True)
class ResamplingLayerConfig(LayerConfig):
    """`cross` looks at the memory and at the layer's own tokens together; the memory has a norm of its own."""

    def check(self) -> None:
        ok = self.cross is not None and self.feed_forward is not None and self.attention is None
        self.require(ok, "cross", "given, with feed_forward and without attention")
        self.require(self.order == "pre", "order", "'pre'")


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig(Config):
    """Any number of vectors -> `count` of them: learned queries that look at them again and again (2204.14198, 3.1)."""

    count: int
    stack: StackConfig

    def check(self) -> None:
        self.require(0 < self.count <= MAX_SIZE, "count", f"1 to {MAX_SIZE}")
        ok = all(isinstance(layer, ResamplingLayerConfig) for layer in self.stack.layers)
        self.require(ok, "stack", "layers that are ResamplingLayerConfig")


@dataclass(frozen=True, kw_only=True)
class ImagesBesideConfig(EmbeddingConfig):
    """Words, and several images per sequence that cross-attention looks at, each word at those that it is told to.

    The cross-attention must have no bias on keys and values, so that a word that sees no image adds nothing.
    """

    vision: TowerConfig
    resampler: ResamplerConfig | None = None
