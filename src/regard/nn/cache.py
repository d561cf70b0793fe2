"""Keys and values of what a decoder has already read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Keys and values per layer, each row compact: column j of row b belongs to the token at position j.

    Rows may have different lengths; what lies beyond a row's length is never looked at, since a causal query only sees
    positions up to its own. The cache is passed in with each call and never stored on a module.
    `capacity` columns are reserved at first use and doubled when they run out.
    """

    def __init__(self, capacity: int = 0):
        self.capacity = capacity
        self.lengths: list[int] = []
        self.sight: Tensor | None = None  # (B, S) what of the memory the newest tokens may look at, if not all
        self._keys: dict[int, Tensor] = {}  # per layer (B, Hkv, S, D)
        self._values: dict[int, Tensor] = {}
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}  # cross-attention, per layer, computed once
        self._rows: Tensor | None = None
        self._columns: Tensor | slice = slice(0, 0)
        self._end = 0

    @property
    def width(self) -> int:
        """Columns that hold something: the longest row, counting what `reserve` announced."""
        return self._end

    @property
    def columns(self) -> Tensor | slice:
        """Where the announced tokens go: the same slice in all rows, or each token's column."""
        return self._columns

    def reserve(self, counts: Sequence[int], positions: Tensor) -> None:
        """Announce `counts[b]` new tokens for each row. Called once per forward pass, before any layer writes.

        `positions` is (B, T) for a padded batch, or (N,) for rows packed end to end.
        """
        if not self.lengths:
            self.lengths = [0] * len(counts)
        if len(counts) != len(self.lengths):
            raise ValueError(f"the cache holds {len(self.lengths)} rows but the input has {len(counts)}")
        packed = positions.ndim == 1
        uniform = len(set(self.lengths)) == 1 and len(set(counts)) == 1
        start = self.lengths[0]
        # Padding after a short row is written too (and overwritten later), so the widest write sets the end.
        widest = max(self.lengths) + (0 if packed else positions.shape[1])
        self.lengths = [n + c for n, c in zip(self.lengths, counts, strict=True)]
        self._end = max(widest, *self.lengths)
        if uniform and not packed:
            self._rows, self._columns = None, slice(start, start + counts[0])
        else:
            index = torch.arange(len(counts), device=positions.device)
            repeats = torch.tensor(list(counts), device=positions.device)
            self._rows = index.repeat_interleave(repeats) if packed else index[:, None]
            self._columns = positions

    def begin(self, keys: Sequence[Tensor], values: Sequence[Tensor], rows: int) -> None:
        """Let every row of this new cache begin with the same keys and values, for each layer (Hkv, S, D)."""
        assert not self.lengths and not self._keys
        length = keys[0].shape[1]
        width = max(self.capacity, length)
        self._keys = {i: _grown(k.expand(rows, -1, -1, -1), width) for i, k in enumerate(keys)}
        self._values = {i: _grown(v.expand(rows, -1, -1, -1), width) for i, v in enumerate(values)}
        self.lengths, self._end = [length] * rows, length

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values, (B, T, Hkv, D) or (N, Hkv, D), and return all so far, (B, Hkv, S, D)."""
        if layer not in self._keys:
            shape = (len(self.lengths), k.shape[-2], max(self.capacity, self._end), k.shape[-1])
            self._keys[layer] = k.new_zeros(shape)
            self._values[layer] = v.new_zeros(shape[:3] + v.shape[-1:])
        room = self.room(layer)
        assert room is not None
        keys, values = room
        if self._rows is None:
            keys[:, :, self._columns] = k.transpose(1, 2)
            values[:, :, self._columns] = v.transpose(1, 2)
        else:
            keys[self._rows, :, self._columns] = k
            values[self._rows, :, self._columns] = v
        return keys[:, :, : self._end], values[:, :, : self._end]

    def room(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """A layer's keys and values (B, Hkv, columns, D) with columns for all that was announced, to be written in
        place; contiguous. None if the layer has none yet."""
        if layer not in self._keys:
            return None
        if self._keys[layer].shape[2] < self._end:
            self._keys[layer] = _grown(self._keys[layer], 2 * self._end)
            self._values[layer] = _grown(self._values[layer], 2 * self._end)
        return self._keys[layer], self._values[layer]

    def memory(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Cross-attention keys and values of a layer, if they were kept."""
        return self._memory.get(layer)

    def keep_memory(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep a layer's cross-attention keys and values: they do not change while decoding."""
        self._memory[layer] = (k, v)

    def select(self, rows: Tensor, *, memory: bool = True) -> None:
        """Keep these rows, in this order; a row may occur several times (beam search) or not at all (finished).

        `memory=False` leaves cross-attention as it is, for beams that only change places within one input.
        """
        self._keys = {i: k.index_select(0, rows) for i, k in self._keys.items()}
        self._values = {i: v.index_select(0, rows) for i, v in self._values.items()}
        if memory:
            self.sight = None if self.sight is None else self.sight.index_select(0, rows)
            pairs = self._memory.items()
            self._memory = {i: (k.index_select(0, rows), v.index_select(0, rows)) for i, (k, v) in pairs}
        self.lengths = [self.lengths[r] for r in rows.tolist()]
        self._end = max(self.lengths, default=0)

    def crop(self, lengths: Sequence[int]) -> None:
        """Forget what lies beyond each row's new length (rejected guesses of speculative decoding)."""
        if any(new > old for new, old in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot crop rows of {self.lengths} tokens to {list(lengths)}")
        self.lengths = list(lengths)
        self._end = max(self.lengths, default=0)


def _grown(x: Tensor, columns: int) -> Tensor:
    grown = x.new_zeros((*x.shape[:2], columns, x.shape[3]))
    grown[:, :, : x.shape[2]] = x
    return grown
