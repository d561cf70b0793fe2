"""Data sets over tokens: a document a row, windows of the stream, documents packed to a length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from regard.training.base import Row
from regard.training.data.tokens import Tokens


class Documents:
    """A row per document, {"input_ids": (T,)}; longer ones are cut at `max_length`."""

    def __init__(self, tokens: Tokens, max_length: int | None = None):
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is {max_length}; allowed: 1 and more")
        self.tokens, self.max_length = tokens, max_length
        self.lengths = tokens.lengths if max_length is None else np.minimum(tokens.lengths, max_length)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.tokens.document(index)[: self.max_length]}


class Blocks:
    """Windows of `length` tokens over the stream, across the ends of documents: {"input_ids": (length,)}.

    One begins every `stride` tokens: by default every `length`, so that an epoch reads each token once. With stride 1
    and shuffled batches, windows begin anywhere, each place once an epoch; such a run is counted in steps.
    """

    def __init__(self, tokens: Tokens, length: int, *, stride: int | None = None):
        stride = length if stride is None else stride
        if length < 1 or stride < 1:
            raise ValueError(f"length is {length} and stride {stride}; allowed: 1 and more")
        if tokens.count < length:
            raise ValueError(f"length is {length}, but there are {tokens.count} tokens in all")
        self.tokens, self.length, self.stride = tokens, length, stride

    def __len__(self) -> int:
        return (self.tokens.count - self.length) // self.stride + 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, all the same."""
        return np.broadcast_to(np.int64(self.length), (len(self),))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        start = index * self.stride
        return {"input_ids": self.tokens.span(start, start + self.length)}


class Packs:
    """Whole documents packed into rows of at most `length` tokens: {"documents": [(T1,), (T2,), ...]}.

    Documents of a row are apart, for a batch in which none sees another. Those longer than `length` are cut into
    pieces. Packed best fit first, from the longest down, which leaves little room unused (`fill`).
    """

    def __init__(self, tokens: Tokens, length: int, *, seed: int = 0):
        if length < 1:
            raise ValueError(f"length is {length}; allowed: 1 and more")
        self.tokens, self.length = tokens, length
        self._starts, sizes = _pieces(tokens.offsets, length)
        self._stops = self._starts + sizes
        packs = pack(sizes, length, seed)
        self._members = np.concatenate(packs) if packs else np.zeros(0, np.int64)
        self._cuts = np.concatenate([[0], np.cumsum([len(p) for p in packs])]).astype(np.int64)
        self.lengths = np.add.reduceat(sizes[self._members], self._cuts[:-1]) if packs else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"pack {index} of {len(self)}")
        members = self._members[self._cuts[index] : self._cuts[index + 1]].tolist()
        return {"documents": [self.tokens.span(int(self._starts[m]), int(self._stops[m])) for m in members]}

    @property
    def fill(self) -> float:
        """How much of the rows' room is used, 0 to 1."""
        return float(self.lengths.sum() / (max(1, len(self)) * self.length))


def unpacked(collate: Callable[[Sequence[Row], np.random.Generator], Any]) -> Callable[..., Any]:
    """An objective's `collate` for rows of `Packs`: each document is a row to it."""
    return lambda rows, rng: collate([{"input_ids": ids} for row in rows for ids in row["documents"]], rng)


def _pieces(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, sizes) of documents cut into pieces of at most `length`; empty ones are left out."""
    sizes = np.diff(offsets)
    count = -(-sizes // length)
    which = np.repeat(np.arange(len(sizes)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    starts = offsets[:-1][which] + place * length
    return starts, np.minimum(length, offsets[1:][which] - starts)


def pack(sizes: np.ndarray, length: int, seed: int = 0) -> list[np.ndarray]:
    """Items of 1 to `length` into bins of `length`: best fit decreasing, items of one size in random order.

    Bins with the same room left are alike, so they are kept by room, and which rooms there are as bits of a number.
    """
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = 0
    for item in order.tolist():
        size = int(sizes[item])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, chosen = length, len(bins)
            bins.append([])
        bins[chosen].append(item)
        left = room - size
        if left:
            by_room.setdefault(left, []).append(chosen)
            rooms |= 1 << left
    return [np.array(members, dtype=np.int64) for members in bins]
