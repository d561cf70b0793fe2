"""Keys and values of what a decoder has already read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[Tensor, Tensor]


class KVCache:
    """Keys and values per layer, each row compact: column j of row b belongs to the token at position j.

    Rows may have different lengths; what lies beyond a row's length is never looked at, since a causal query only sees
    positions up to its own. The cache is passed in with each call and never stored on a module.
    `capacity` columns are reserved at first use and doubled when they run out. Rows that change places are not moved at
    once: `origins` and `memory_origins` tell where they lie, until `update` or `memory` put them in order.
    """

    def __init__(self, capacity: int = 0):
        self.capacity = capacity
        self.lengths: list[int] = []
        self.sight: Tensor | None = None  # (B, S) what of the memory the newest tokens may look at, if not all
        self._held: dict[int, Pair] = {}  # keys and values per layer, (B, Hkv, S, D)
        self._memory: dict[int, Pair] = {}  # cross-attention, per layer, computed once
        self._moved: Pair | None = None  # whose a row's tokens are (B, S), and how many (B, 1)
        self.memory_origins: Tensor | None = None  # (B,) which row of the memory each row looks at, if not its own
        self._rows: Tensor | None = None
        self._numbers: Tensor | None = None
        self.columns: Tensor | slice = slice(0, 0)  # where new tokens go: the same in all rows, or each one's
        self.steady = False  # whether the model is surely what it was at the last pass: nobody else has had a turn
        self.begins = False  # whether the announced tokens are the first ones
        self.width = 0  # columns that hold something: the longest row, counting what `reserve` announced

    def reserve(self, counts: Sequence[int], positions: Tensor) -> None:
        """Announce `counts[b]` new tokens for each row. Called once per forward pass, before any layer writes.

        `positions` is (B, T) for a padded batch, or (N,) for rows packed end to end.
        """
        self.lengths = self.lengths or [0] * len(counts)
        if len(counts) != len(self.lengths):
            raise ValueError(f"the cache holds {len(self.lengths)} rows but the input has {len(counts)}")
        self.begins = not any(self.lengths)
        packed = positions.ndim == 1
        uniform = len(set(self.lengths)) == 1 and len(set(counts)) == 1
        # Padding after a short row is written too (and overwritten later), so the widest write sets the end.
        widest = max(self.lengths) + (0 if packed else positions.shape[1])
        self.lengths = [n + c for n, c in zip(self.lengths, counts, strict=True)]
        self.width = max(widest, *self.lengths)
        if self._held and self.capacity < self.width:
            self._widen(2 * self.width)
        if uniform and not packed:
            self._rows, self.columns = None, slice(self.lengths[0] - counts[0], self.lengths[0])
        else:
            index = torch.arange(len(counts), device=positions.device)
            repeats = torch.tensor(list(counts), device=positions.device)
            self._rows = index.repeat_interleave(repeats) if packed else index[:, None]
            self.columns = positions

    def numbers(self, first: int, end: int, device: torch.device) -> Tensor:
        """Columns from `first` up to `end`, which are positions too; from a table that is made once."""
        if self._numbers is None or len(self._numbers) < end:
            self._numbers = torch.arange(max(end, self.capacity), device=device)
        return self._numbers[first:end]

    def begin(self, keys: Sequence[Tensor], values: Sequence[Tensor], rows: int) -> None:
        """Let every row of this new cache begin with the same keys and values, for each layer (Hkv, S, D)."""
        assert not self.lengths and not self._held
        length = keys[0].shape[1]
        same = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in zip(keys, values, strict=True)]
        self._held = dict(enumerate(same))
        self._widen(max(self.capacity, length))
        self.lengths, self.width = [length] * rows, length

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values, (B, T, Hkv, D) or (N, Hkv, D), and return all so far, (B, Hkv, S, D)."""
        self.settle()
        room = self.room(layer) or self.make_room(layer, k, v)
        for held, new in zip(room, (k, v), strict=True):
            if self._rows is None:
                held[:, :, self.columns] = new.transpose(1, 2)
            else:
                held[self._rows, :, self.columns] = new
        return room[0][:, :, : self.width].type_as(k), room[1][:, :, : self.width].type_as(v)

    def room(self, layer: int) -> Pair | None:
        """A layer's keys and values with room for the announced tokens, to write into; None if nothing is held yet.

        New tokens belong into a row's own columns; where its older ones lie, `origins` tells.
        """
        return self._held.get(layer)

    def make_room(self, layer: int, k: Tensor, v: Tensor) -> Pair:
        """Room for a layer's first keys and values, which are like these, (..., Hkv, D)."""
        self.capacity = max(self.capacity, self.width)
        keys, values = (x.new_zeros(len(self.lengths), x.shape[-2], self.capacity, x.shape[-1]) for x in (k, v))
        self._held[layer] = keys, values
        return keys, values

    def pairs(self) -> list[Pair]:
        """All keys and values, those of cross-attention last: the same objects as long as they lie where they lay."""
        return [*self._held.values(), *self._memory.values()]

    def _widen(self, columns: int) -> None:
        self.capacity = columns
        self._held = {i: _grown(pair, columns) for i, pair in self._held.items()}

    def memory(self, layer: int) -> Pair | None:
        """Cross-attention keys and values of a layer, if they were kept."""
        if self.memory_origins is not None:
            self._memory, self.memory_origins = _chosen(self._memory, self.memory_origins), None
        return self._memory.get(layer)

    def memory_room(self, layer: int) -> Pair | None:
        """The same as they lie there: `memory_origins` tells which row is whose."""
        return self._memory.get(layer)

    def origins(self) -> Tensor | None:
        """Which row of `room` holds each token (B, width); None if each row holds its own."""
        if self._moved is None:
            return None
        table, lengths = self._moved
        own = torch.arange(len(table), device=table.device)[:, None]
        kept = torch.arange(self.width, device=table.device) < lengths
        return torch.where(kept, F.pad(table, (0, self.width - table.shape[1])), own)

    def keep_memory(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep a layer's cross-attention keys and values: they do not change while decoding."""
        self._memory[layer] = (k, v)

    def select(self, rows: Tensor, *, memory: bool = True) -> None:
        """Keep these rows, in this order; a row may occur several times (beam search) or not at all (finished).

        `memory=False` leaves cross-attention as it is, for beams that only change places within one input.
        """
        counts = self.lengths
        self.lengths = [counts[r] for r in rows.tolist()]
        if memory:
            self.settle()
            self._held = _chosen(self._held, rows)
            self.sight = None if self.sight is None else self.sight.index_select(0, rows)
            before = self.memory_origins
            self.memory_origins = rows if before is None else before.index_select(0, rows)
        else:
            table = self.origins()
            table = rows[:, None].expand(-1, self.width) if table is None else table.index_select(0, rows)
            self._moved = table, torch.tensor(self.lengths, device=rows.device)[:, None]
            if self.lengths != counts:  # a row's next column may hold a token of a longer one
                self.settle()
        self.width = max(self.lengths, default=0)

    def replace(self, rows: Tensor, other: KVCache) -> None:
        """Give these rows (n,) what the n rows of another cache hold."""
        self.settle()
        if self.capacity < other.width:
            self._widen(other.width)
        for layer, new in other._held.items():
            for part, fresh in zip(self._held[layer], new, strict=True):
                part[rows, :, : other.width] = fresh[:, :, : other.width]
        for layer, new in other._memory.items():
            kept = self.memory(layer)
            assert kept is not None
            for part, fresh in zip(kept, new, strict=True):
                part[rows] = fresh
        for row, length in zip(rows.tolist(), other.lengths, strict=True):
            self.lengths[row] = length
        self.width = max(self.lengths)

    def settle(self) -> None:
        """Move all tokens to the rows that they belong to."""
        table = self.origins()
        if self._moved is None or table is None:
            return
        table, self._moved = table[:, : self._moved[0].shape[1]], None
        columns = torch.arange(table.shape[1], device=table.device)
        whole = bool((table == table[:, :1]).all())
        for part in (part for pair in self._held.values() for part in pair):
            old = part[:, :, : len(columns)]
            if whole:
                old.copy_(old.index_select(0, table[:, 0]))
            else:
                by_token = old.transpose(1, 2)
                by_token.copy_(by_token[table, columns])

    def crop(self, lengths: Sequence[int]) -> None:
        """Forget what lies beyond each row's new length (rejected guesses of speculative decoding)."""
        if any(new > old for new, old in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot crop rows of {self.lengths} tokens to {list(lengths)}")
        self.lengths = list(lengths)
        self.width = max(self.lengths, default=0)


def _chosen(pairs: dict[int, Pair], rows: Tensor) -> dict[int, Pair]:
    return {i: (k.index_select(0, rows), v.index_select(0, rows)) for i, (k, v) in pairs.items()}


def _grown(pair: Pair, columns: int) -> Pair:
    k, v = (F.pad(x, (0, 0, 0, columns - x.shape[2])) for x in pair)
    return k, v
