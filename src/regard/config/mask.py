"""Which token may look at which: small values that compose. Plain operators only, so no torch is imported."""

from __future__ import annotations

import functools
import typing
from dataclasses import dataclass
from typing import Any

from regard.config.base import Config


class TokenFacts(typing.Protocol):
    """What a mask may know of a row of tokens: position and segment of each, (B, T)."""

    @property
    def positions(self) -> Any: ...
    @property
    def segments(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Mask(Config):
    """Which query may look at which key. Compose with `&` and `|`; padding is data and never part of a mask."""

    def allows(self, q: TokenFacts, k: TokenFacts) -> Any:
        """Boolean tensor (B, Tq, Tk), true where the query may see the key."""
        raise TypeError(f"{type(self).__name__} does not say what it allows")

    def __and__(self, other: Mask) -> Mask:
        return AllOf(masks=(self, other))

    def __or__(self, other: Mask) -> Mask:
        return AnyOf(masks=(self, other))


@dataclass(frozen=True, kw_only=True)
class AllOf(Mask):
    """Allowed where every part allows."""

    masks: tuple[Mask, ...]

    def allows(self, q: TokenFacts, k: TokenFacts) -> Any:
        return functools.reduce(lambda a, b: a & b, (m.allows(q, k) for m in self.masks))


@dataclass(frozen=True, kw_only=True)
class AnyOf(Mask):
    """Allowed where some part allows."""

    masks: tuple[Mask, ...]

    def allows(self, q: TokenFacts, k: TokenFacts) -> Any:
        return functools.reduce(lambda a, b: a | b, (m.allows(q, k) for m in self.masks))


@dataclass(frozen=True, kw_only=True)
class Causal(Mask):
    """A token sees itself and what came before it."""

    def allows(self, q: TokenFacts, k: TokenFacts) -> Any:
        return k.positions[:, None, :] <= q.positions[:, :, None]


@dataclass(frozen=True)
class Window(Mask):
    """A token sees keys less than `size` positions away, on either side; `Causal() & Window(n)` slides backwards."""

    size: int

    def check(self) -> None:
        self.require(self.size > 0, "size", "at least 1")

    def allows(self, q: TokenFacts, k: TokenFacts) -> Any:
        return (q.positions[:, :, None] - k.positions[:, None, :]).abs() < self.size


@dataclass(frozen=True)
class Prefix(Mask):
    """Every token sees the first `size` positions: `Causal() | Prefix(n)` is a prefix language model."""

    size: int

    def allows(self, q: TokenFacts, k: TokenFacts) -> Any:
        return (k.positions < self.size)[:, None, :] & (q.positions >= 0)[:, :, None]


@dataclass(frozen=True, kw_only=True)
class Segments(Mask):
    """A token sees only tokens of its own segment (documents that share a row)."""

    def allows(self, q: TokenFacts, k: TokenFacts) -> Any:
        return q.segments[:, :, None] == k.segments[:, None, :]
