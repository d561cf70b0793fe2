"""Bricks as structures: what each residual branch is, and what a step of attention looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.native import layout
from regard.native.threads import threads
from regard.native.weights import Store, Unknown, same_kind
from regard.nn import ACTIVATIONS, Attend, Attention, Context, FeedForward, Sublayer

FLOATS = (torch.float32, torch.bfloat16)


class Pass:
    """One step of a stack: `x` (rows, C) float32, which every branch adds to, and views shared by layers alike.

    `where` is the address that branches read; they write to `x`.
    """

    def __init__(self, x: Tensor, ctx: Context):
        self.ctx, self.length, self.dtype = ctx, x.shape[1], x.dtype
        self.x = torch.empty(x.shape[0] * x.shape[1], x.shape[2]).copy_(x.reshape(-1, x.shape[2]))
        self.rows, self.threads = self.x.shape[0], threads()
        self.to = self.where = self.x.data_ptr()
        self.views: dict[object, object] = {}
        self.kept: list[Tensor] = []


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
        self.sort = store.number((c.mask, c.rope, a.is_cross))

    def ready(self, ctx: Context) -> bool:
        groups = ctx.memory_groups if self.is_cross else ctx.groups
        if self.attend.kernel != "auto" or len(groups) != 1 or ctx.cache is None:
            return False
        return self._held(ctx) is not None and not isinstance(groups[0].mask(self.config.mask), str)

    def _held(self, ctx: Context) -> tuple[Tensor, Tensor] | None:
        assert ctx.cache is not None
        return ctx.cache.memory_room(ctx.layer) if self.is_cross else ctx.cache.room(ctx.layer)

    def __call__(self, p: Pass) -> None:
        held = self._held(p.ctx)
        assert held is not None
        keys, values = held
        key = self.sort, keys.stride()
        view = p.views.get(key)
        if view is None:
            assert keys.stride() == values.stride() and keys.stride(3) == 1 and keys.dtype in FLOATS
            view = p.views[key] = layout.address(self.view(p, keys))
        self.call(self.address, view, keys.data_ptr(), values.data_ptr(), p.where, p.to)

    def view(self, p: Pass, keys: Tensor) -> layout.View:
        """What this pass's rows look at, in layers of this sort."""
        c, ctx = self.config, p.ctx
        group = (ctx.memory_groups if self.is_cross else ctx.groups)[0]
        view = layout.View(rows=p.rows, length=p.length, threads=p.threads)
        view.keys, view.capacity, view.half = group.k.positions.shape[1], keys.shape[2], keys.dtype == torch.bfloat16
        view.by_row, view.by_head, view.by_key, _ = keys.stride()
        assert ctx.cache is not None
        origins = ctx.cache.memory_origins if self.is_cross else ctx.cache.origins()
        if origins is not None:
            view.origins, view.places = keep(p, origins.contiguous()), keys.shape[0]
            view.origin_by_row, view.origin_by_key = (1, 0) if self.is_cross else (origins.shape[1], 1)
        if not self.is_cross:
            columns = ctx.cache.columns
            if isinstance(columns, slice):
                view.start = columns.start
            else:
                view.columns = keep(p, columns.expand(p.rows // p.length, p.length).contiguous())
        if c.rope is not None:
            cos, sin = (part.expand(p.rows // p.length, p.length, 1, -1).contiguous() for part in ctx.rotary(c.rope))
            view.cos, view.sin, view.rope_dim = keep(p, cos), keep(p, sin), cos.shape[-1]
        mask = group.mask(c.mask)
        if mask is not None:
            mask = mask.expand(p.rows // p.length, 1, p.length, view.keys).contiguous()
            view.mask, view.mask_by_row, view.mask_by_token = keep(p, mask), mask.stride(0), mask.stride(2)
        if group.bias is not None and not self.is_cross:
            bias = group.bias.float().contiguous()
            view.bias = keep(p, bias)
            view.bias_by_row = bias.stride(0) if bias.shape[0] > 1 else 0
            view.bias_by_head, view.bias_by_token = bias.stride(1), bias.stride(2)
        return view


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


def keep(p: Pass, x: Tensor) -> int:
    """The address of a tensor that lives as long as the pass."""
    p.kept.append(x)
    return x.data_ptr()


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
