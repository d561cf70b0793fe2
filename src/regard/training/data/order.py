"""Shuffled orders that are functions of a key: any position can be asked for, nothing is kept between epochs."""

from __future__ import annotations

from typing import Protocol

import numpy as np

HELD = 2**22
"""Up to so many rows an order is a permutation held in memory (32 MB); above it is computed position by position."""

_ROUNDS = 6


class Order(Protocol):
    """Positions (N,) of int64, each below the number of rows, to the rows that come there."""

    def __call__(self, positions: np.ndarray) -> np.ndarray: ...


def order(count: int, key: tuple[int, ...], *, shuffle: bool = True) -> Order:
    """The order of `count` rows for a key such as (seed, epoch): a bijection of range(count)."""
    if not shuffle:
        return lambda positions: positions
    if count <= HELD:
        held = np.random.default_rng(key).permutation(count)
        return lambda positions: held[positions]
    return Feistel(count, key)


class Feistel:
    """A pseudo-random bijection of range(count), computed and not stored.

    A Feistel network over the next even number of bits, walked until it lands inside the range (Black and Rogaway
    2002, "Ciphers with arbitrary finite domains"); its rounds mix with the finaliser of splitmix64.
    """

    def __init__(self, count: int, key: tuple[int, ...]):
        assert count > 0
        self.count = count
        self.half = np.uint64(max(1, (max(1, (count - 1).bit_length()) + 1) // 2))
        self.mask = np.uint64((1 << int(self.half)) - 1)
        self.keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        found = self._once(np.asarray(positions).astype(np.uint64))
        outside = np.flatnonzero(found >= self.count)
        while len(outside):
            found[outside] = self._once(found[outside])
            outside = outside[found[outside] >= self.count]
        return found.astype(np.int64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        left, right = x >> self.half, x & self.mask
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) & self.mask)
        return (left << self.half) | right


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
