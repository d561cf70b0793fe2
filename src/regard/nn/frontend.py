"""Front-ends: anything -> vectors. Here tokens; other senses register theirs the same way."""

from __future__ import annotations

from torch import Tensor, nn

from regard.config import EmbeddingConfig, LearnedPositions, SinusoidalPositions
from regard.nn.attention import dropped
from regard.nn.build import build, builds
from regard.nn.position import sinusoids


@builds(EmbeddingConfig)
class Embedding(nn.Module):
    """Token, position and segment tables summed, normed, projected. ids (...) -> (..., C)."""

    def __init__(self, config: EmbeddingConfig):
        super().__init__()
        self.config = config
        width = config.width or config.dim
        inner = config.dim if config.project == "before" else width
        self.token = nn.Embedding(config.vocab_size, width)
        self.position: nn.Embedding | None = None
        if isinstance(config.positions, LearnedPositions):
            self.position = nn.Embedding(config.positions.size + config.positions.offset, inner)
        self.segment = nn.Embedding(config.num_types, inner) if config.num_types else None
        self.norm = build(config.norm, inner) if config.norm is not None else None
        self.proj = nn.Linear(width, config.dim, config.project == "after") if width != config.dim else None

    def forward(
        self, ids: Tensor | None, positions: Tensor, segments: Tensor | None = None, vectors: Tensor | None = None
    ) -> Tensor:
        """ids, positions and segments all (...); `vectors` (..., width) may stand in for ids."""
        c = self.config
        if vectors is None:
            assert ids is not None
            vectors = self.token(ids) * c.scale if c.scale != 1.0 else self.token(ids)
        x = vectors
        if self.proj is not None and c.project == "before":
            x = self.proj(x)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if segments is None else self.segment(segments))
        if isinstance(c.positions, SinusoidalPositions):
            x = x + sinusoids(positions, x.shape[-1], c.positions).to(x.dtype)
        elif self.position is not None:
            assert isinstance(c.positions, LearnedPositions)
            x = x + self.position(positions + c.positions.offset)
        x = x if self.norm is None else self.norm(x)
        x = dropped(x, c.dropout, self.training)
        return self.proj(x) if self.proj is not None and c.project == "after" else x

    @property
    def limit(self) -> int | None:
        """The longest sequence that has positions, or None if there is no end."""
        return None if self.config.positions is None else self.config.positions.size
