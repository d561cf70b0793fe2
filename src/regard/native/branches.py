"""Bricks as structures: what each residual branch is, and what it adds to a pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from regard.native import layout
from regard.native.passes import Pass, Sort
from regard.native.weights import Store, Unknown, same_kind
from regard.nn import ACTIVATIONS, Attend, Attention, Context, FeedForward, Sublayer
from regard.nn.cache import Pair


class Branch(ABC):
    """A part of a layer that adds to the rows of a pass."""

    @abstractmethod
    def plan(self, p: Pass, ctx: Context) -> None:
        """Let the pass do it, at the step `ctx.layer`."""


class TorchBranch(Branch):
    """A sublayer or a whole layer that the kernels do not know, between others that they do."""

    def __init__(self, module: nn.Module):
        self.module = module

    def plan(self, p: Pass, ctx: Context) -> None:
        p.torch(self.module, ctx.layer)


class AttentionBranch(Branch):
    """Self- or cross-attention."""

    def __init__(self, sublayer: Sublayer, dim: int, parallel: bool, store: Store):
        a = sublayer.fn
        if type(a) is not Attention or type(a.attend) is not Attend or (a.attend.dropout and a.training):
            raise Unknown(type(a).__name__)
        c = a.config
        if c.rope is not None and (c.rope.by_length or a.is_cross):
            raise Unknown("rotary positions that depend on a row's length")
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
        self.sort = Sort(c.mask, c.rope, a.is_cross, c.kv_heads, c.head_dim)

    def held(self, ctx: Context) -> Pair | None:
        """What the cache holds for the step `ctx.layer`."""
        if ctx.cache is None:
            return None
        return ctx.cache.memory_room(ctx.layer) if self.sort.is_cross else ctx.cache.room(ctx.layer)

    def plan(self, p: Pass, ctx: Context) -> None:
        pair = self.held(ctx)
        if pair is None and ctx.cache is not None:
            small = self.structure.q.kind in (layout.KINDS["int8"], layout.KINDS["int4"])
            dtype = torch.bfloat16 if small else p.dtype  # beside weights of a byte, keys of four take most of the time
            like = torch.empty(self.sort.kv_heads, self.sort.head_dim, dtype=dtype)
            pair = ctx.cache.make_room(ctx.layer, like, like)
        p.attention(self.structure, self.sort, pair, ctx)


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

    def plan(self, p: Pass, ctx: Context) -> None:
        p.call("feed-forward", self.structure)


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
