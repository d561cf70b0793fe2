"""Configs of what stands around a stack: front-ends, heads, towers, whole models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.config.base import Config
from regard.config.layer import Activation, NormConfig, StackConfig


@dataclass(frozen=True, kw_only=True)
class LearnedPositions(Config):
    """A table of `size` usable positions, preceded by `offset` rows that no token uses."""

    size: int
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class SinusoidalPositions(Config):
    """Computed positions (1706.03762, 3.5); sines and cosines interleaved, or in two halves."""

    size: int
    layout: Literal["interleaved", "halves"] = "interleaved"


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(Config):
    """Tokens (+ positions, + segment types) -> vectors.

    `width` is the table's own width where a projection to `dim` follows: `"before"` positions and norm (no bias), or
    `"after"` them (with bias).
    """

    vocab_size: int
    dim: int
    width: int | None = None
    project: Literal["before", "after"] = "after"
    positions: LearnedPositions | SinusoidalPositions | None = None
    num_types: int = 0
    scale: float = 1.0
    norm: NormConfig | None = None
    dropout: float = 0.0

    def check(self) -> None:
        self.require(self.vocab_size > 0, "vocab_size", "at least 1")
        self.require(self.dim > 0, "dim", "at least 1")


@dataclass(frozen=True, kw_only=True)
class TransformConfig(Config):
    """dropout -> dense -> activation -> norm, in front of an output projection or as a pooler."""

    dim: int
    activation: Activation = "identity"
    norm: NormConfig | None = None
    bias: bool = True
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """Base of all heads: what is made of hidden states."""


@dataclass(frozen=True, kw_only=True)
class FeaturesHeadConfig(HeadConfig):
    """No output beyond hidden states; `pooler` adds `pooler_output` from the first token."""

    pooler: TransformConfig | None = None


@dataclass(frozen=True, kw_only=True)
class LanguageHeadConfig(HeadConfig):
    """Hidden -> vocabulary, for causal, masked and sequence-to-sequence language models.

    `scale` multiplies the hidden states (T5 with tied tables), `softcap` squashes logits as cap * tanh(x / cap).
    """

    vocab_size: int
    bias: bool = False
    transform: TransformConfig | None = None
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierHeadConfig(HeadConfig):
    """One label set per sequence: pooled token -> (dense -> activation) -> dropout -> labels.

    `pool`: the first token, the last real token (decoders), the last end-of-sequence token (BART), or the mean.
    """

    num_labels: int
    pool: Literal["first", "last", "eos", "mean"] = "first"
    transform: TransformConfig | None = None
    bias: bool = True
    dropout: float = 0.0

    def check(self) -> None:
        self.require(0 < self.num_labels <= 2**20, "num_labels", "1 to 1048576")


@dataclass(frozen=True, kw_only=True)
class TokenHeadConfig(HeadConfig):
    """One label per token."""

    num_labels: int
    bias: bool = True
    dropout: float = 0.0

    def check(self) -> None:
        self.require(0 < self.num_labels <= 2**20, "num_labels", "1 to 1048576")


@dataclass(frozen=True, kw_only=True)
class SpanHeadConfig(HeadConfig):
    """Start and end scores per token (extractive question answering)."""

    bias: bool = True
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TowerConfig(Config):
    """A front-end and a stack: anything -> hidden states."""

    front: Config
    stack: StackConfig


@dataclass(frozen=True, kw_only=True)
class TokenIds(Config):
    """Ids with a meaning for the model. Several ids may end a sequence.

    Shifted right, a sequence begins with `decoder_start`; if `last_starts`, with its own last token (a language code).
    """

    pad: int | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    decoder_start: int | None = None
    last_starts: bool = False


@dataclass(frozen=True, kw_only=True)
class InitConfig(Config):
    """How new weights are drawn: normal(std), Xavier uniform (Glorot 2010), or fan-in (std = fan_in ** -0.5, T5).

    `residual` divides the std of each branch's last linear by sqrt(number of branches) (GPT-2).
    """

    scheme: Literal["normal", "xavier", "fan_in"] = "normal"
    std: float = 0.02
    embedding_std: float | None = None
    residual: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A whole model. `tied` lists (name, owner): the first parameter is the second one."""

    encoder: TowerConfig | None = None
    decoder: TowerConfig | None = None
    head: HeadConfig = FeaturesHeadConfig()
    tied: tuple[tuple[str, str], ...] = ()
    tokens: TokenIds = TokenIds()
    init: InitConfig = InitConfig()
    max_length: int | None = None

    def check(self) -> None:
        if self.encoder is None and self.decoder is None:
            raise ValueError("ModelConfig has neither encoder nor decoder; allowed: one of them, or both")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the hidden states that the head reads."""
        tower = self.decoder or self.encoder
        assert tower is not None
        return (tower.stack.dim,)
