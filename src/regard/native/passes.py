"""A pass through a stack, made ready: what the kernels are to do one after another, and what they look at."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from ctypes import Structure, addressof
from typing import NamedTuple

import torch
from torch import Tensor

from regard.config import Mask, RopeConfig
from regard.native import layout
from regard.native.threads import threads
from regard.nn import Context, KVCache
from regard.nn.cache import Pair
from regard.nn.context import runs
from regard.nn.position import rotary

FLOATS = (torch.float32, torch.bfloat16)
AT_ONCE = 128  # rows that are read together, so that what layers make of them stays in the cache


class Place(NamedTuple):
    """In which group of the context sequences are, after how many others there, after how many tokens and how many
    sequences of the pass."""

    group: int = 0
    first: int = 0
    before: int = 0
    row: int = 0


class Sort(NamedTuple):
    """Layers of one sort look at the same tokens in the same way."""

    mask: Mask | None
    rope: RopeConfig | None
    is_cross: bool
    kv_heads: int
    head_dim: int


class Sight:
    """What some sequences of a pass look at in all layers of a sort, told anew before each run.

    `keys` (B, H, S, D) are like those of each layer. `place` says where sequences that see their new tokens only are;
    without one, all of them look at what the cache holds.
    """

    def __init__(self, sort: Sort, keys: Tensor, count: int, length: int, place: Place | None = None):
        assert keys.stride(3) == 1 and keys.dtype in FLOATS
        self.sort, self.in_cache, self.place = sort, place is None, place or Place()
        self.rows = slice(self.place.row, self.place.row + count)  # of the cache
        self.view = view = layout.View(rows=count * length, length=length, threads=threads(count * length))
        view.places, view.capacity, view.half = keys.shape[0], keys.shape[2], keys.dtype == torch.bfloat16
        view.by_row, view.by_head, view.by_key, _ = keys.stride()
        self._kept: list[Tensor] = []

    def _keep(self, x: Tensor) -> int:
        """The address of a tensor that lives until the next run."""
        self._kept.append(x)
        return x.data_ptr()

    def update(self, ctx: Context, turns: Callable[[RopeConfig], Tensor]) -> None:
        """Look at what a run looks at; `turns` gives cosines and sines of all rows (2, rows, D)."""
        view, c = self.view, self.sort
        group = (ctx.memory_groups if c.is_cross else ctx.groups)[self.place.group]
        self._kept.clear()
        view.keys = group.k.positions.shape[1]
        if self.in_cache and ctx.cache is not None:
            self._in_cache(ctx.cache)
        if c.rope is not None:
            cos, sin = turns(c.rope)[:, self.place.before :]
            view.cos, view.sin, view.rope_dim = self._keep(cos), self._keep(sin), cos.shape[-1]
        self._masked(group.mask(c.mask))
        self._biased(None if c.is_cross else group.bias)

    def _in_cache(self, cache: KVCache) -> None:
        """In which of the cache's rows keys lie, and in which columns new ones go."""
        view, is_cross = self.view, self.sort.is_cross
        origins = cache.memory_origins if is_cross else cache.origins()
        view.origins = None if origins is None else self._keep(origins.contiguous())
        if origins is not None:
            view.origin_by_row, view.origin_by_key = (1, 0) if is_cross else (origins.shape[1], 1)
        if is_cross:
            return
        if isinstance(cache.columns, slice):
            view.columns, view.start = None, cache.columns.start
        else:
            view.columns = self._keep(cache.columns.expand(view.rows // view.length, view.length).contiguous())

    def _masked(self, mask: Tensor | str | None) -> None:
        view = self.view
        if isinstance(mask, str):
            mask = torch.ones(1, 1, view.length, view.keys, dtype=torch.bool).tril()
        view.mask = None
        if mask is not None:
            mask = mask.expand(-1, 1, view.length, view.keys).contiguous()
            view.mask_by_row, view.mask_by_token = mask.stride(0) * (mask.shape[0] > 1), mask.stride(2)
            view.mask = self._keep(mask) + self.place.first * view.mask_by_row

    def _biased(self, bias: Tensor | None) -> None:
        view = self.view
        view.bias = None
        if bias is not None:
            bias = bias.float().contiguous()
            view.bias_by_row = bias.stride(0) * (bias.shape[0] > 1)
            view.bias_by_head, view.bias_by_token = bias.stride(1), bias.stride(2)
            view.bias = self._keep(bias) + self.place.first * view.bias_by_row * bias.itemsize


class Pass:
    """Rows (rows, C) float32 that every branch adds to, and what is done to them, step after step.

    It is planned once. One over a cache may be run again and again, as long as it `fits`; one that `begins` fills an
    empty one.
    """

    def __init__(self, like: Tensor, ctx: Context, *, begins: bool = False):
        self.alone = begins or ctx.cache is None  # whether new tokens look at each other only
        self.shape, self.dtype, self.threads = like.shape, like.dtype, threads(like.shape[:-1].numel())
        self.pairs = [] if ctx.cache is None else ctx.cache.pairs()
        self.x = torch.empty(like.shape[:-1].numel(), like.shape[-1])
        self.to = self.where = self.x.data_ptr()  # branches read what lies at `where`, and add to what lies at `to`
        self._parts: list[Callable[[Pass, Context | None], object]] = []
        self.calls: list[layout.Call] = []
        self._ends: list[layout.Call] = []  # the first and the last call of each part
        self._sights: dict[object, list[tuple[Sight, Pair]]] = {}
        self._kept: list[Tensor] = []
        self._tables: dict[RopeConfig, Tensor] = {}
        self._turned: dict[RopeConfig, Tensor] = {}

    def fits(self, x: Tensor, ctx: Context) -> bool:
        """Whether this can be run over a cache: it is laid out alike, and keys and values lie where they lay."""
        assert ctx.cache is not None
        like = (self.shape, self.dtype) == (x.shape, x.dtype)
        return like and ctx.groups[0].q_valid is None and self.lies(ctx.cache)

    def lies(self, cache: KVCache) -> bool:
        """Whether keys and values of a cache lie where they lay."""
        pairs = cache.pairs()
        same = len(pairs) == len(self.pairs) and all(map(operator.is_, pairs, self.pairs))
        return same and self.threads == threads(len(self.x))

    def call(self, task: str, structure: Structure | None = None, at: int | None = None) -> layout.Call:
        """Plan something for the kernels, at a place among the calls or after all of them."""
        place = None if structure is None else addressof(structure)
        call = layout.Call(layout.TASKS[task], place, in_=self.where, out=self.to)
        self.calls.insert(len(self.calls) if at is None else at, call)
        return call

    def attention(self, structure: Structure, sort: Sort, pair: Pair | None, ctx: Context) -> None:
        """Plan attention over a layer's keys and values in the cache, or over the new tokens alone."""
        key = sort, None if pair is None else pair[0].stride()
        if key not in self._sights:
            found = self._rectangles(sort, pair, ctx) if self.alone or pair is None else self._cached(sort, pair)
            self._sights[key] = list(found)
        for sight, room in self._sights[key]:
            call, at = self.call("attention", structure), sight.place.before * self.x.stride(0) * self.x.itemsize
            keys, values = room if pair is None else (part[sight.rows] for part in pair)
            call.view, call.keys, call.values = addressof(sight.view), keys.data_ptr(), values.data_ptr()
            call.in_, call.out = self.where + at, self.to + at

    def sights(self) -> list[Sight]:
        """All that is looked at."""
        return [sight for sights in self._sights.values() for sight, _ in sights]

    def _cached(self, sort: Sort, pair: Pair) -> Iterator[tuple[Sight, Pair]]:
        assert pair[0].stride() == pair[1].stride()
        yield Sight(sort, pair[0], *self.shape[:2]), pair

    def _rectangles(self, sort: Sort, pair: Pair | None, ctx: Context) -> Iterator[tuple[Sight, Pair]]:
        """Tokens that look at each other only, some sequences at a time; without a cache all layers use the same room
        for keys."""
        before = row = 0
        shapes = [(self.shape[0], self.shape[1])] if ctx.lengths is None else runs(ctx.lengths)
        for group, (count, length) in enumerate(shapes):
            some = max(1, AT_ONCE // length)
            for first in range(0, count, some):
                n = min(some, count - first)
                keys, values = pair or torch.empty(2, n, sort.kv_heads, length, sort.head_dim)
                yield Sight(sort, keys, n, length, Place(group, first, before, row)), (keys, values)
                before, row = before + n * length, row + n

    def split(self) -> None:
        """Let the branches that follow read what the rows are now, whatever is added to them."""
        entered = torch.empty_like(self.x)
        self._kept.append(entered)
        self.call("copy").out = entered.data_ptr()
        self.where = entered.data_ptr()

    def join(self) -> None:
        """Let branches read the rows again."""
        self.where = self.to

    def torch(self, module: Callable[[Tensor, Context], Tensor], step: int) -> None:
        """Plan something for torch."""

        def part(p: Pass, ctx: Context | None) -> None:
            assert ctx is not None
            ctx.layer = step
            p.x.copy_(module(p.x.view(p.shape).to(p.dtype), ctx).view_as(p.x))

        self.close()
        self._parts.append(part)

    def close(self) -> None:
        """Make the calls so far one part."""
        if not self.calls:
            return
        calls = (layout.Call * len(self.calls))(*self.calls)
        arguments = (calls, len(calls), *self.x.shape, self.threads)
        self.calls.clear()
        self._parts.append(lambda p, ctx: layout.kernels().rg_run(*arguments))
        self._ends += [calls[0], calls[-1]]

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """What becomes of x."""
        self._turned.clear()
        for sight in self.sights():
            sight.update(ctx, lambda rope: self._turns(rope, ctx))
        x, y = x.float().contiguous(), torch.empty(self.shape)
        self._ends[0].in_, self._ends[-1].out = x.data_ptr(), y.data_ptr()
        self.run(ctx)
        return y.to(self.dtype)

    def run(self, ctx: Context | None = None) -> None:
        """Do what was planned; parts of torch want a context."""
        for part in self._parts:
            part(self, ctx)

    def _turns(self, rope: RopeConfig, ctx: Context) -> Tensor:
        """Cosines and sines of all rows (2, rows, D). A token's column in a cache is its position: there is a table."""
        if rope not in self._turned:
            if self.alone:
                parts = [part.expand(*self.shape[:-1], 1, -1).reshape(len(self.x), -1) for part in ctx.rotary(rope)]
                self._turned[rope] = torch.stack(parts)
            else:
                if rope not in self._tables:
                    self._tables[rope] = torch.stack(rotary(torch.arange(self.pairs[0][0].shape[2]), rope)).squeeze(2)
                self._turned[rope] = self._tables[rope].index_select(1, ctx.positions.flatten())
        return self._turned[rope]
