"""A stack whose layers run in the kernels whenever a pass is one for them, and in torch otherwise."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.utils.hooks import RemovableHandle

from regard.adapt.quantized import Quantized
from regard.native import layout
from regard.native.branches import AttentionBranch, Branch, TorchBranch, branch
from regard.native.passes import FLOATS, Pass
from regard.native.threads import threads
from regard.native.weights import Store, Unknown
from regard.nn import Attend, Context, KVCache, Layer, Stack

ROWS = 32
"""Above so many rows torch's matrix products, which reuse what they read, are left to do the work."""
MANY = 2048
"""So many rows the kernels of attention take; with weights of int8 they are faster than torch up to there."""
_VERSION, _VALUES = operator.attrgetter("_version"), operator.methodcaller("values")


class Watch:
    """Notices that modules or parameters were exchanged, moved or hooked since the structures were made."""

    def __init__(self, root: nn.Module):
        modules = list(root.modules())
        self.attends = [m for m in modules if isinstance(m, Attend)]
        self.hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self.hooks += [registry._global_forward_hooks, registry._global_forward_pre_hooks]
        self.handles = -1  # how many hooks there ever were, anywhere, when there was none here
        self.owners: list[dict[str, Any]] = [held for m in modules for held in (m._modules, m._parameters) if held]
        self.members = list(self._members())
        self.tensors = [p for p in self.members if isinstance(p, Tensor)]
        self.counted = [p for p in self.tensors if not p.is_inference()]  # the others have no count of changes
        self.state = self._state()

    def _members(self) -> Iterator[object]:
        return chain(chain.from_iterable(map(_VALUES, self.owners)), (None,))  # more or fewer are seen at the end

    def _state(self) -> list[int]:
        return [*map(Tensor.data_ptr, self.tensors), *map(_VERSION, self.counted)]

    def alone(self) -> bool:
        """Whether nobody looks on, as hooks do, which see torch's modules only, or asks for a kernel of torch."""
        if self.handles != RemovableHandle.next_id:  # to look at each module takes as long as a small layer
            if any(self.hooks):
                return False
            self.handles = RemovableHandle.next_id
        return all(one.kernel == "auto" for one in self.attends)

    def unchanged(self) -> bool:
        """Whether everything is where and what it was."""
        return all(map(operator.is_, self._members(), self.members)) and self._state() == self.state


class StandIn:
    """Answers natively for a method of a module."""


class NativeStack(StandIn):
    """Stands in for `Stack.through`."""

    def __init__(self, stack: Stack, store: Store):
        self.stack, self.store = stack, store
        self.torch: Callable[[Tensor, Context], Tensor] = type(stack).through.__get__(stack)
        self.unknown: list[str] = []  # paths of what torch goes on computing
        self.split: set[int] = set()  # layers whose branches all read what entered
        self.branches = {i: self._layer(i, layer) for i, layer in enumerate(stack.layers)}
        self.norm = None if stack.norm is None else store.norm(stack.norm)
        self.small = store.precision == "auto" and store.kinds <= {layout.KINDS["int8"], layout.KINDS["int4"]}
        self.watch = Watch(stack)
        self.most = MANY if store.kinds == {layout.KINDS["int8"]} else ROWS
        self.passes: WeakKeyDictionary[KVCache, Pass] = WeakKeyDictionary()

    def _layer(self, i: int, layer: nn.Module) -> list[Branch]:
        dim = self.stack.config.dim
        if type(layer) is not Layer:
            return [self._other(f"layers.{i}", layer, layer)]
        found: list[Branch] = []
        for sublayer in layer.sublayers():
            try:
                found.append(branch(sublayer, dim, layer.parallel, self.store))
            except Unknown:
                name = next(name for name, module in layer.named_children() if module is sublayer)
                found.append(self._other(f"layers.{i}.{name}", sublayer, sublayer.fn))
        if layer.parallel and any(isinstance(one, TorchBranch) for one in found):
            return [self._other(f"layers.{i}", layer, layer)]
        if layer.parallel:
            self.split.add(i)
        return found

    def _other(self, path: str, module: nn.Module, what: nn.Module) -> TorchBranch:
        self.unknown.append(f"{path} ({type(what).__name__})")
        return TorchBranch(module)

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        p = self._pass(x, ctx)
        if p is None:
            return self.torch(x, ctx)
        if self.unknown and ctx.cache is not None:
            ctx.cache.settle()  # parts of torch move rows themselves, which the kernels would not know
        return p(x, ctx)

    def _pass(self, x: Tensor, ctx: Context) -> Pass | None:
        """The pass that is kept for this cache, or a new one; None where torch has to do it."""
        cache = ctx.cache
        kept = None if cache is None else self.passes.get(cache)
        if kept is not None and cache is not None and kept.fits(x, ctx):
            return kept if cache.steady or self._suits(x, ctx) else None
        if not self._suits(x, ctx):
            return None
        if cache is None or self._begins(cache):
            return self._planned(x, ctx, begins=cache is not None)
        if not self._begun(ctx):
            return None
        p = self.passes[cache] = self._planned(x, ctx)
        return p

    def _suits(self, x: Tensor, ctx: Context) -> bool:
        """Whether this is a step of writing, or a text that is read by small weights, and all is as it was."""
        if ctx.cache is None or self._begins(ctx.cache):
            short = all(group.q.positions.shape[1] <= MANY for group in ctx.groups)
            fits = self.small and few(x, None) and short and not ctx.memory_groups
            fits = fits and (ctx.cache is None or ctx.groups[0].q_valid is None)
        else:
            fits = few(x, self.most) and ctx.lengths is None and ctx.groups[0].q_valid is None
        return fits and not self.stack.training and self.watch.alone() and self.watch.unchanged()

    def _begins(self, cache: KVCache) -> bool:
        """Whether this reads a prompt as it reads any text."""
        return self.small and not self.unknown and cache.begins

    def _begun(self, ctx: Context) -> bool:
        for ctx.layer, index in enumerate(self.stack.config.order):
            for one in self.branches[index]:
                if isinstance(one, AttentionBranch) and one.held(ctx) is None:
                    return False
        return True

    def _planned(self, x: Tensor, ctx: Context, *, begins: bool = False) -> Pass:
        p = Pass(x, ctx, begins=begins)
        p.call("copy")
        self.plan(p, ctx)
        p.close()
        return p

    def plan(self, p: Pass, ctx: Context) -> None:
        """Let the pass do all layers, and the final norm."""
        for ctx.layer, index in enumerate(self.stack.config.order):
            if index in self.split:
                p.split()
            for one in self.branches[index]:
                one.plan(p, ctx)
            p.join()
        p.call("copy" if self.norm is None else "norm", self.norm)

    def __reduce__(self) -> Any:
        """A copy of the model is torch's."""
        return getattr, (self.stack, "through")


class OfLinear(StandIn):
    """What stands in for a method that a linear computes; calling it is that method."""

    def __init__(self, module: nn.Module, store: Store):
        self.module, self.store = module, store
        self.structure = store.linear(module)
        self.address = layout.address(self.structure)
        self.watch = Watch(module)


class NativeLinear(OfLinear):
    """Stands in for a linear's `forward`; for a quantized one with any number of rows, so that its weights need be in
    memory in one form only."""

    def __init__(self, module: nn.Module, store: Store):
        super().__init__(module, store)
        self.most = None if isinstance(module, Quantized) else ROWS
        self.torch, self.call = type(module).forward.__get__(module), layout.kernels().rg_linear

    def __call__(self, x: Tensor) -> Tensor:
        fits = few(x, self.most) and x.shape[-1] == self.structure.in_ and self.watch.unchanged()
        if not fits:
            return self.torch(x)  # type: ignore[no-any-return]
        flat = x.reshape(-1, x.shape[-1]).float().contiguous()
        y = torch.empty(flat.shape[0], self.structure.out)
        self.call(self.address, flat.shape[0], threads(len(flat)), flat.data_ptr(), y.data_ptr())
        return y.view(*x.shape[:-1], -1).to(x.dtype)

    def __reduce__(self) -> Any:
        """A copy of the model is torch's."""
        return getattr, (self.module, "forward")


def few(x: Tensor, most: int | None = ROWS) -> bool:
    """Whether x is few rows on the CPU (None: or many), and `unseen`."""
    return (
        x.ndim > 1
        and x.numel() > 0
        and (most is None or x.numel() <= most * x.shape[-1])
        and x.dtype in FLOATS
        and unseen(x)
    )


def unseen(x: Tensor) -> bool:
    """Whether x is on the CPU, and nobody differentiates, traces or casts what becomes of it."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def put(module: nn.Module, name: str, native: StandIn) -> None:
    """Let `native` answer for a method of this one module."""
    module.__dict__[name] = native


def taken(module: nn.Module) -> dict[str, Any]:
    """Which methods of a module are answered natively."""
    return {name: value for name, value in module.__dict__.items() if isinstance(value, StandIn)}


__all__ = ["ROWS", "AttentionBranch", "NativeLinear", "NativeStack", "OfLinear", "few", "put", "taken"]
