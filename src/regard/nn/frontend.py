"""Front-ends: anything -> vectors and their context. Here tokens; other senses register theirs the same way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.config import EmbeddingConfig, LearnedPositions, SinusoidalPositions
from regard.nn.attention import dropped
from regard.nn.build import build, builds
from regard.nn.cache import KVCache
from regard.nn.context import Context, cached, packed, padded
from regard.nn.linear import Linear
from regard.nn.position import sinusoids

FEW = 64  # so few ids are looked at one by one


@builds(EmbeddingConfig)
class Embedding(nn.Module):
    """Token, position and segment tables summed, normed, projected."""

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
        self.proj = Linear(width, config.dim, config.project == "after") if config.width else None

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
    ) -> tuple[Tensor, Context]:
        """input_ids (B, T) with attention_mask (B, T), padded on either side; or packed (N,) with `lengths`.

        Positions follow the mask unless `position_ids` says otherwise, so that padding never changes a result. With a
        `cache`, the tokens continue its rows (padding on the right only). `inputs_embeds` (..., width) may stand in for
        ids. Returns vectors (..., C) and their context.
        Raises ValueError for ids outside the vocabulary and for input beyond the positions that there are.
        """
        if input_ids is not None:
            _check_ids(input_ids, self.config.vocab_size, "input_ids", "this model's vocabulary")
        if token_type_ids is not None and self.segment is not None:
            _check_ids(token_type_ids, self.config.num_types, "token_type_ids", "this model's table of types")
        ctx = layout(input_ids, attention_mask, position_ids, inputs_embeds, lengths, cache, self.limit)
        ctx.ids = input_ids
        return self.embed(input_ids, ctx.positions, token_type_ids, inputs_embeds), ctx

    def embed(
        self, ids: Tensor | None, positions: Tensor, segments: Tensor | None = None, vectors: Tensor | None = None
    ) -> Tensor:
        """ids, positions and segments all (...); `vectors` (..., width) may stand in for ids. -> (..., C)"""
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
            x = x + self.position(positions + c.positions.offset if c.positions.offset else positions)
        x = x if self.norm is None else self.norm(x)
        x = dropped(x, c.dropout, self.training)
        return self.proj(x) if self.proj is not None and c.project == "after" else x

    @property
    def limit(self) -> int | None:
        """The longest sequence that has positions, or None if there is no end."""
        return None if self.config.positions is None else self.config.positions.size


def layout(
    ids: Tensor | None,
    mask: Tensor | None,
    positions: Tensor | None,
    vectors: Tensor | None,
    lengths: Sequence[int] | None,
    cache: KVCache | None,
    limit: int | None,
) -> Context:
    """Check what was passed in and say how it is laid out: padded, packed or continuing a cache."""
    tokens = ids if ids is not None else vectors
    if tokens is None or (ids is not None and vectors is not None):
        raise ValueError("pass either input_ids or inputs_embeds")
    shape = tokens.shape if ids is not None else tokens.shape[:-1]
    if lengths is not None:
        if len(shape) != 1 or sum(lengths) != shape[0] or min(lengths, default=0) < 1:
            raise ValueError(
                f"packed input has shape {tuple(shape)}; allowed: one axis of sum(lengths) = {sum(lengths)}"
            )
        if mask is not None or positions is not None:
            raise ValueError("packed input (lengths=...) takes neither attention_mask nor position_ids")
        check_length(max(lengths), limit)
        return packed(lengths, tokens.device, cache)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"input has shape {tuple(shape)}; allowed: (batch, tokens), both at least 1; or packed with lengths="
        )
    if mask is not None and mask.shape != shape:
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}; the input has {tuple(shape)}")
    if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
        mask = None  # nothing is padded: kernels need no mask
    if cache is not None:
        return _continue(limit, shape, tokens.device, mask, cache)
    check_length(shape[1], limit, mask)
    if mask is None:
        plain = torch.arange(shape[1], device=tokens.device).expand(shape)
        return padded(plain, aligned=True) if positions is None else padded(positions.expand(shape))
    valid = mask.bool()
    if positions is None:
        positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    return padded(positions.expand(shape), valid)


def _continue(
    limit: int | None, shape: Sequence[int], device: torch.device, mask: Tensor | None, cache: KVCache
) -> Context:
    rows, width = shape
    counts = [width] * rows if mask is None else [int(n) for n in mask.sum(1)]
    if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError(
            "with a cache, padding must be on the right; `generate` rearranges left-padded prompts by itself"
        )
    starts = cache.lengths or [0] * rows
    check_length(max(s + c for s, c in zip(starts, counts, strict=True)), limit)
    if len(set(starts)) == 1:
        positions = cache.numbers(starts[0], starts[0] + width, device).expand(rows, width)
    else:
        positions = cache.numbers(0, width, device) + torch.tensor(starts, device=device)[:, None]
    if limit is not None and mask is not None:
        positions = positions.clamp(max=limit - 1)  # only padding lies beyond
    return cached(positions, counts, cache)


def check_length(length: int, limit: int | None, mask: Tensor | None = None) -> None:
    """Raise a ValueError that names both numbers if an input is longer than the model's positions."""
    if limit is None or length <= limit:
        return
    if mask is not None:
        length = int(mask.sum(1).max())
    if length > limit:
        raise ValueError(f"input has {length} tokens; this model takes at most {limit}; pass truncation=True to cut it")


def _check_ids(ids: Tensor, size: int, name: str, table: str) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} has type {ids.dtype}; allowed: torch.int64 or torch.int32")
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or ids.numel() == 0:
        return
    found = ids.reshape(-1).tolist() if ids.numel() <= FEW else [int(x) for x in ids.aminmax()]
    low, high = min(found), max(found)
    if low < 0 or high >= size:
        raise ValueError(f"{name} holds {low if low < 0 else high}; {table} has {size} ids, 0 to {size - 1}")
