"""Bricks as structures: what each residual branch is, and what a step of attention looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from regard.native import layout
from regard.native.threads import threads
from regard.native.weights import Store, Unknown, same_kind
from regard.nn import ACTIVATIONS, Attend, Attention, Context, FeedForward, Group, KVCache, Sublayer
from regard.nn.context import runs

FLOATS = (torch.float32, torch.bfloat16)
MOST = 1024  # tokens of a sequence, where all are new
AT_ONCE = 128  # rows that are read together, so that what layers make of them stays in the cache


class Pass:
    """One step of a stack: `x` (rows, C) float32, which every branch adds to, and views shared by layers alike.

    `where` is the address that branches read; they write to `x`.
    """

    def __init__(self, x: Tensor, ctx: Context):
        self.ctx, self.shape, self.dtype = ctx, x.shape, x.dtype
        self.x = torch.empty(x.shape[:-1].numel(), x.shape[-1]).copy_(x.reshape(-1, x.shape[-1]))
        self.rows, self.threads = self.x.shape[0], threads()
        self.to = self.where = self.x.data_ptr()
        self.views: dict[object, Any] = {}
        self.kept: list[Tensor] = []

    def keep(self, x: Tensor) -> int:
        """The address of a tensor that lives as long as the pass."""
        self.kept.append(x)
        return x.data_ptr()


class Branch(ABC):
    """A sublayer that the kernels know. Calling it adds the branch to the pass's `x`."""

    @abstractmethod
    def __call__(self, p: Pass) -> None:
        """Add the branch to the pass's `x`."""

    def ready(self, ctx: Context) -> bool:
        """Whether this pass is one that the kernel does."""
        return True


class AttentionBranch(Branch):
    """Self- or cross-attention over a cache."""

    def __init__(self, sublayer: Sublayer, dim: int, parallel: bool, store: Store):
        a = sublayer.fn
        if type(a) is not Attention or type(a.attend) is not Attend or (a.attend.dropout and a.training):
            raise Unknown(type(a).__name__)
        c = self.config = a.config
        if c.rope is not None and (c.rope.by_length or a.is_cross):
            raise Unknown("rotary positions that depend on a row's length")
        self.is_cross, self.attend, self.call = a.is_cross, a.attend, layout.kernels().rg_attention
        linears = [store.linear(a.q)]
        if a.is_cross:
            linears += [layout.Linear(), layout.Linear()]
        else:
            linears += [store.linear(a.k), store.linear(a.v)]
            same_kind(*linears)
        self.structure = layout.Attention(
            surrounding(sublayer, dim, parallel, store),
            *linears,
            store.linear(a.out),
            store.norm(a.q_norm),
            store.norm(None if a.is_cross else a.k_norm),
            *(c.num_heads, c.kv_heads, c.head_dim, c.qk_norm_over == "all", c.rope is not None and c.rope.interleaved),
            *(c.head_dim**-0.5 if c.scale is None else c.scale, c.softcap or 0.0),
        )
        self.address = layout.address(self.structure)
        self.sort = store.number((c.mask, c.rope, a.is_cross, c.kv_heads, c.head_dim))

    def ready(self, ctx: Context) -> bool:
        if self.attend.kernel != "auto":
            return False
        if ctx.cache is None:
            return not self.is_cross and all(group.q.positions.shape[1] <= MOST for group in ctx.groups)
        groups = ctx.memory_groups if self.is_cross else ctx.groups
        return (
            len(groups) == 1 and self._held(ctx) is not None and not isinstance(groups[0].mask(self.config.mask), str)
        )

    def _held(self, ctx: Context) -> tuple[Tensor, Tensor] | None:
        assert ctx.cache is not None
        return ctx.cache.memory_room(ctx.layer) if self.is_cross else ctx.cache.room(ctx.layer)

    def __call__(self, p: Pass) -> None:
        if p.ctx.cache is None:
            if self.sort not in p.views:
                p.views[self.sort] = list(self._rectangles(p))
            for view, keys, values, at in p.views[self.sort]:
                self.call(self.address, view, keys, values, p.where + at, p.to + at)
            return
        held = self._held(p.ctx)
        assert held is not None
        keys, values = held
        key = self.sort, keys.stride()
        view = p.views.get(key)
        if view is None:
            assert keys.stride() == values.stride() and keys.stride(3) == 1 and keys.dtype in FLOATS
            group = (p.ctx.memory_groups if self.is_cross else p.ctx.groups)[0]
            view = p.views[key] = layout.address(self._view(p, group, keys))
        self.call(self.address, view, keys.data_ptr(), values.data_ptr(), p.where, p.to)

    def _rectangles(self, p: Pass) -> Iterator[tuple[Any, int, int, int]]:
        """Tokens that look at each other only, some sequences at a time: a view, room for their keys and values, which
        all layers use, and how many bytes of the pass lie before them."""
        c, at = self.config, 0
        shapes = [(p.shape[0], p.shape[1])] if p.ctx.lengths is None else runs(p.ctx.lengths)
        for (count, length), group in zip(shapes, p.ctx.groups, strict=True):
            some = max(1, AT_ONCE // length)
            for first in range(0, count, some):
                keys, values = torch.empty(2, min(some, count - first), c.kv_heads, length, c.head_dim)
                view = layout.address(self._view(p, group, keys, first, at))
                yield view, p.keep(keys), p.keep(values), at * p.x.stride(0) * p.x.itemsize
                at += keys.shape[0] * length

    def _view(self, p: Pass, group: Group, keys: Tensor, first: int = 0, at: int = 0) -> layout.View:
        """What rows of a group look at, in layers of this sort: as many sequences as `keys` (B, H, S, D) has.

        `first`: how many sequences of the group, and `at`: how many rows of the pass lie before them.
        """
        c, ctx, length = self.config, p.ctx, group.q.positions.shape[1]
        count = keys.shape[0] if ctx.cache is None else p.shape[0]
        view = layout.View(rows=count * length, length=length, threads=p.threads)
        view.keys, view.capacity, view.half = group.k.positions.shape[1], keys.shape[2], keys.dtype == torch.bfloat16
        view.by_row, view.by_head, view.by_key, _ = keys.stride()
        if ctx.cache is not None:
            self._in_cache(p, view, ctx.cache, keys.shape[0])
        if c.rope is not None:
            turns = [part.expand(*p.shape[:-1], 1, -1).reshape(p.rows, -1)[at:] for part in ctx.rotary(c.rope)]
            (view.cos, view.sin), view.rope_dim = map(p.keep, turns), turns[0].shape[-1]
        mask = group.mask(c.mask)
        if isinstance(mask, str):
            mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        if mask is not None:
            mask = mask.expand(-1, 1, length, view.keys).contiguous()
            view.mask_by_row, view.mask_by_token = mask.stride(0) * (mask.shape[0] > 1), mask.stride(2)
            view.mask = p.keep(mask) + first * view.mask_by_row
        if group.bias is not None and not self.is_cross:
            bias = group.bias.float().contiguous()
            view.bias_by_row = bias.stride(0) * (bias.shape[0] > 1)
            view.bias_by_head, view.bias_by_token = bias.stride(1), bias.stride(2)
            view.bias = p.keep(bias) + first * view.bias_by_row * bias.itemsize
        return view

    def _in_cache(self, p: Pass, view: layout.View, cache: KVCache, places: int) -> None:
        """In which of the cache's rows keys lie, and in which columns new ones go."""
        origins = cache.memory_origins if self.is_cross else cache.origins()
        if origins is not None:
            view.origins, view.places = p.keep(origins.contiguous()), places
            view.origin_by_row, view.origin_by_key = (1, 0) if self.is_cross else (origins.shape[1], 1)
        if self.is_cross:
            return
        if isinstance(cache.columns, slice):
            view.start = cache.columns.start
        else:
            view.columns = p.keep(cache.columns.expand(view.rows // view.length, view.length).contiguous())


class FeedForwardBranch(Branch):
    """A dense feed-forward layer, gated or not."""

    def __init__(self, sublayer: Sublayer, dim: int, parallel: bool, store: Store):
        f = sublayer.fn
        if type(f) is not FeedForward or f.activation is not ACTIVATIONS[f.config.activation]:
            raise Unknown(type(f).__name__)
        up, gate = store.linear(f.up), layout.Linear() if f.gate is None else store.linear(f.gate)
        if f.gate is not None:
            same_kind(up, gate)
        around, activation = surrounding(sublayer, dim, parallel, store), layout.ACTIVATIONS.index(f.config.activation)
        self.structure = layout.FeedForward(around, up, gate, store.linear(f.down), activation)
        self.address, self.call = layout.address(self.structure), layout.kernels().rg_feed_forward

    def __call__(self, p: Pass) -> None:
        self.call(self.address, p.rows, p.threads, p.where, p.to)


def surrounding(sublayer: Sublayer, dim: int, parallel: bool, store: Store) -> layout.Branch:
    """Norms and scale of a residual branch."""
    order, norm = sublayer.config.order, store.norm(sublayer.norm)
    none = layout.Norm()
    before = norm if order in ("pre", "sandwich") else none
    within = norm if order == "branch" else store.norm(sublayer.post_norm)
    after = norm if order == "post" and not parallel else none
    return layout.Branch(dim, before, within, after, store.scale(sublayer.scale, dim))


Maker = Callable[[Sublayer, int, bool, Store], Branch]
MAKERS: dict[type[nn.Module], Maker] = {Attention: AttentionBranch, FeedForward: FeedForwardBranch}


def branch(sublayer: nn.Module, dim: int, parallel: bool, store: Store) -> Branch:
    """A sublayer as the kernels do it. Raises Unknown for what they do not."""
    if type(sublayer) is not Sublayer or type(sublayer.fn) not in MAKERS:
        raise Unknown(type(sublayer).__name__)
    return MAKERS[type(sublayer.fn)](sublayer, dim, parallel, store)
