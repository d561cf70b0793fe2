"""What a layer may need besides x: positions, who sees whom, memory and cache, in one explicit object.

Per-token modules never ask how sequences are laid out. `Context` knows: it cuts queries, keys and values into
rectangles (`Group`), and puts the results back. A padded batch is one rectangle; sequences packed end to end are one
rectangle for each run of equal lengths, so that no work is spent on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from regard.config import Causal, Mask, MoEConfig, RopeConfig
from regard.nn.cache import KVCache
from regard.nn.position import rotary


@dataclass(frozen=True)
class Tokens:
    """What masks may ask of a row of tokens: positions and segments (B, T)."""

    positions: Tensor
    segments: Tensor | None = None


@dataclass
class Group:
    """A rectangle of attention: B sequences with Tq queries and Tk keys each.

    `q_valid`, `k_valid` (B, T) tell real tokens from padding, None meaning all real; `k_ends` (B, 1) where rows of keys
    end, which only matters to who looks ahead. `aligned` says that queries and keys are the same tokens at positions 0,
    1, 2 ..., so that a kernel may treat `Causal()` by itself; `newest` that each query comes after all keys, so that
    `Causal()` hides nothing. `seen` (B, Tq, Tk) is what this input lets a query look at: which of several images, say.
    `default_mask`, `bias` and `relative` are put there by the stack, for its layers to share.
    """

    q: Tokens
    k: Tokens
    q_valid: Tensor | None = None
    k_valid: Tensor | None = None
    aligned: bool = False
    newest: bool = False
    k_ends: Tensor | None = None
    seen: Tensor | None = None
    default_mask: Mask | None = None
    bias: Tensor | None = None  # (B or 1, H, Tq, Tk)
    relative: Tensor | None = None  # vectors of relative positions (span, C)
    memo: dict[Any, Any] = field(default_factory=dict)

    def mask(self, mask: Mask | None) -> Any:
        """A layer's own mask, or the stack's, as a kernel wants it: None, "causal", or booleans (B, 1, Tq, Tk).

        Computed once for all layers.
        """
        mask = self.default_mask if mask is None else mask
        if mask not in self.memo:
            self.memo[mask] = self._mask(mask)
        return self.memo[mask]

    def _mask(self, mask: Mask | None) -> Any:
        if self.k_valid is None and self.aligned and isinstance(mask, Causal):
            return "causal" if self.q.positions.shape[1] > 1 else None
        if self.newest and isinstance(mask, Causal):
            return None
        k_valid = self.k_valid
        if k_valid is None and self.k_ends is not None and not isinstance(mask, Causal):
            k_valid = self.k.positions < self.k_ends
        if mask is None and k_valid is None and self.seen is None:
            return None
        allowed = self.q.positions.new_ones((), dtype=torch.bool) if mask is None else mask.allows(self.q, self.k)
        if k_valid is not None:
            allowed = allowed & k_valid[:, None, :]
        if self.seen is not None:
            allowed = allowed & self.seen
        if self.q_valid is not None:  # a padding query sees everything: its row must stay finite, nobody reads it
            allowed = allowed | ~self.q_valid[:, :, None]
        return allowed[:, None]


@dataclass
class Context:
    """One forward pass. `positions` has the shape of the tokens: (B, T) padded or (N,) packed.

    `ids` are the tokens, where there are any, `grid` how many patches of an image lie each way, `maps` what each stage
    of a stack made of it, (B, C, height, width). `groups` are the rectangles of self-attention, `memory_groups` those
    of cross-attention over `memory`. `lengths` is set for packed tokens; `layer` is the running step of the stack.
    `losses` are what layers add to what is learnt, of `routes`, which say how experts were used.
    """

    positions: Tensor
    groups: list[Group]
    ids: Tensor | None = None
    grid: tuple[int, ...] | None = None
    maps: list[Tensor] = field(default_factory=list)
    lengths: tuple[int, ...] | None = None
    memory: Tensor | None = None
    memory_groups: list[Group] = field(default_factory=list)
    memory_lengths: tuple[int, ...] | None = None
    memory_counts: list[int] | None = None
    cache: KVCache | None = None
    layer: int = 0
    routes: dict[MoEConfig, list[Tensor]] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    _angles: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def rotary(self, config: RopeConfig, *, keys: bool = False) -> tuple[Tensor, Tensor]:
        """Rotary cosines and sines of this pass's tokens, or of all `keys` in the cache; once per distinct config."""
        if (config, keys) not in self._angles:
            positions = self.groups[0].k.positions if keys else self.positions
            self._angles[config, keys] = rotary(positions, config, self.totals() if config.by_length else None)
        return self._angles[config, keys]

    def totals(self) -> Tensor:
        """How many tokens each token's sequence has, those in the cache included; broadcastable to positions."""
        if self.lengths is not None:
            counts = torch.tensor(self.lengths, device=self.positions.device)
            return counts.repeat_interleave(counts)
        if self.cache is not None:
            return torch.tensor(self.cache.lengths, device=self.positions.device)[:, None]
        return self.positions.amax(1, keepdim=True) + 1


def runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(how many, of which length) for each run of equal lengths: [3, 3, 5] -> [(2, 3), (1, 5)]."""
    return [(len(list(same)), length) for length, same in groupby(lengths)]


def rectangles(x: Tensor, lengths: Sequence[int] | None, counts: Sequence[int] | None = None) -> list[Tensor]:
    """(B, T, H, D) -> one (B, H, T, D); packed (N, H, D) -> one (n, H, T, D) for each run of equal lengths.

    `counts` says how many sequences each rectangle has, where runs are cut smaller.
    """
    if lengths is None:
        return [x.transpose(1, 2)]
    shapes = runs(lengths) if counts is None else spans(lengths, counts)
    parts = x.split([n * t for n, t in shapes])
    return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)]


def begun(x: Tensor, groups: Sequence[Group]) -> list[Tensor]:
    """Keys or values (B, H, S, D) of rows that had begun before, cut into the groups' rectangles."""
    parts = x.split([group.q.positions.shape[0] for group in groups])
    return [part[:, :, : group.k.positions.shape[1]] for part, group in zip(parts, groups, strict=True)]


def spans(lengths: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int]]:
    """(how many, of which length) for so many sequences at a time. Raises ValueError if their lengths differ."""
    ends = list(accumulate(counts))
    parts = [set(lengths[end - n : end]) for n, end in zip(counts, ends, strict=True)]
    if ends[-1] != len(lengths) or any(len(part) > 1 for part in parts):
        raise ValueError("packed sequences of one length must have memory of one length; sort by both lengths")
    return [(n, part.pop()) for n, part in zip(counts, parts, strict=True)]


def joined(parts: Sequence[Tensor], lengths: Sequence[int] | None) -> Tensor:
    """The inverse of `rectangles`."""
    if lengths is None:
        return parts[0].transpose(1, 2)
    return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])


def padded(
    positions: Tensor, valid: Tensor | None = None, segments: Tensor | None = None, *, aligned: bool = False
) -> Context:
    """A padded batch: positions, valid (bool) and segments (B, T). `aligned`: all rows are 0, 1, 2 ..., all real."""
    assert not (aligned and (valid is not None or segments is not None))
    tokens = Tokens(positions, segments)
    return Context(positions, [Group(tokens, tokens, valid, valid, aligned)])


def packed(lengths: Sequence[int], device: torch.device, cache: KVCache | None = None) -> Context:
    """Sequences end to end, without padding. A `cache` must be new, or have begun with as many tokens in each row;
    positions start at 0, or after these."""
    held = [] if cache is None else cache.lengths
    if held and (len(set(held)) > 1 or len(held) != len(lengths)):
        raise ValueError("packed input starts new rows, but the cache already holds some; pass a new KVCache")
    groups, start = [], held[0] if held else 0
    for n, t in runs(lengths):
        tokens = Tokens(torch.arange(start, start + t, device=device).expand(n, t))
        keys = Tokens(torch.arange(start + t, device=device)[None]) if start else tokens
        groups.append(Group(tokens, keys, aligned=not start))
    positions = torch.cat([g.q.positions.reshape(-1) for g in groups])
    if cache is not None:
        cache.reserve(lengths, positions)
    return Context(positions, groups, lengths=tuple(lengths), cache=cache)


def cached(positions: Tensor, counts: Sequence[int], cache: KVCache) -> Context:
    """New tokens (B, T) that continue the cache's rows, `counts[b]` of them real, the rest padding on the right."""
    fresh = not any(cache.lengths)
    cache.reserve(counts, positions)
    keys = Tokens(cache.numbers(0, cache.width, positions.device)[None])
    aligned = fresh and cache.width == positions.shape[1]
    newest = positions.shape[1] == 1 and len(set(cache.lengths)) == 1
    group = Group(Tokens(positions), keys, aligned=aligned, newest=newest)
    if min(counts) < positions.shape[1]:
        ends = torch.tensor(list(counts), device=positions.device)[:, None]
        group.q_valid = torch.arange(positions.shape[1], device=positions.device) < ends
    if min(cache.lengths) < cache.width:
        group.k_ends = torch.tensor(cache.lengths, device=positions.device)[:, None]
    return Context(positions, [group], cache=cache)


def with_memory(ctx: Context, memory: Tensor, valid: Tensor | None, lengths: Sequence[int] | None) -> Context:
    """Add encoder output to look at: (B, S, C) with valid (B, S), or packed (M, C) with its lengths."""
    ctx.memory, ctx.memory_lengths = memory, None if lengths is None else tuple(lengths)
    sizes = [memory.shape[1]] * len(ctx.groups)
    if lengths is None and ctx.lengths is not None:
        raise ValueError("packed sequences need packed memory: pass its lengths")
    if lengths is not None:
        ctx.memory_counts = [group.q.positions.shape[0] for group in ctx.groups]
        sizes = [s for _, s in spans(lengths, ctx.memory_counts)]
    for group, s in zip(ctx.groups, sizes, strict=True):
        keys = Tokens(torch.arange(s, device=memory.device)[None])
        ctx.memory_groups.append(Group(group.q, keys, None, valid if lengths is None else None))
    return ctx
