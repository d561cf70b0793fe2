"""A stack whose layers run in the kernels whenever a pass is one for them, and in torch otherwise."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry

from regard.adapt.quantized import Quantized
from regard.native import layout
from regard.native.branches import FLOATS, AttentionBranch, Branch, Pass, branch
from regard.native.threads import threads
from regard.native.weights import Store, Unknown
from regard.nn import Context, Layer, Stack

ROWS = 32
"""Above so many rows torch's matrix products, which reuse what they read, are left to do the work."""
MANY = 1024
"""So many rows the kernels of attention take; with weights of int8 they are faster than torch up to there."""
_VERSION = operator.attrgetter("_version")


class TorchBranch(Branch):
    """A sublayer or a whole layer that the kernels do not know, between others that they do."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, p: Pass) -> None:
        p.x.copy_(self.module(p.x.view(p.shape).to(p.dtype), p.ctx).view_as(p.x))


class Parallel(Branch):
    """Branches that all read what entered the layer."""

    def __init__(self, branches: list[Branch]):
        self.branches = branches

    def ready(self, ctx: Context) -> bool:
        return all(one.ready(ctx) for one in self.branches)

    def __call__(self, p: Pass) -> None:
        entered = p.x.clone()
        p.where = entered.data_ptr()
        for one in self.branches:
            one(p)
        p.where = p.to


class Watch:
    """Notices that modules or parameters were exchanged, moved or hooked since the structures were made."""

    def __init__(self, root: nn.Module):
        modules = list(root.modules())
        self.hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self.hooks += [registry._global_forward_hooks, registry._global_forward_pre_hooks]
        self.owners = [held for m in modules for held in (m._modules, m._parameters) if held]
        self.members = list(self._members())
        self.tensors = [p for p in self.members if isinstance(p, Tensor)]
        self.counted = [p for p in self.tensors if not p.is_inference()]  # the others have no count of changes
        self.state = self._state()

    def _members(self) -> Iterator[object]:
        return chain.from_iterable(owner.values() for owner in self.owners)

    def _state(self) -> list[int]:
        return [*map(Tensor.data_ptr, self.tensors), *map(_VERSION, self.counted)]

    def hooked(self) -> bool:
        """Whether somebody looks on: hooks see torch's modules only."""
        return any(self.hooks)

    def unchanged(self) -> bool:
        """Whether everything is where and what it was."""
        same = sum(map(len, self.owners)) == len(self.members) and all(map(operator.is_, self._members(), self.members))
        return same and self._state() == self.state


class NativeStack:
    """Stands in for `Stack.through`."""

    def __init__(self, stack: Stack, store: Store):
        self.stack, self.store = stack, store
        self.torch: Callable[[Tensor, Context], Tensor] = type(stack).through.__get__(stack)
        self.unknown: list[str] = []  # paths of what torch goes on computing
        self.branches = {i: self._layer(i, layer) for i, layer in enumerate(stack.layers)}
        self.small = store.precision == "auto" and store.kinds <= {layout.KINDS["int8"], layout.KINDS["int4"]}
        self.watch = Watch(stack)
        self.most = MANY if store.kinds == {layout.KINDS["int8"]} else ROWS

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
        if not layer.parallel:
            return found
        if any(isinstance(one, TorchBranch) for one in found):
            return [self._other(f"layers.{i}", layer, layer)]
        return [Parallel(found)]

    def _other(self, path: str, module: nn.Module, what: nn.Module) -> TorchBranch:
        self.unknown.append(f"{path} ({type(what).__name__})")
        return TorchBranch(module)

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        if not self._suits(x, ctx) or self.stack.training or self.watch.hooked():
            return self.torch(x, ctx)
        if not self._ready(ctx) or not self.watch.unchanged():
            return self.torch(x, ctx)
        if self.unknown and ctx.cache is not None:
            ctx.cache.settle()  # parts of torch move rows themselves, which views made before would not know
        p = Pass(x, ctx)
        for ctx.layer, index in enumerate(self.stack.config.order):
            for one in self.branches[index]:
                one(p)
        return p.x.view(x.shape).to(x.dtype)

    def _suits(self, x: Tensor, ctx: Context) -> bool:
        """A step of writing, or a text that is read by small weights."""
        if ctx.cache is None:
            return self.small and few(x, None)
        return few(x, self.most) and ctx.lengths is None and ctx.groups[0].q_valid is None

    def __reduce__(self) -> Any:
        """A copy of the model is torch's."""
        return getattr, (self.stack, "through")

    def _ready(self, ctx: Context) -> bool:
        """Whether every attention finds its cache begun, if there is one. Layers have all begun, or none."""
        for ctx.layer, index in enumerate(self.stack.config.order):
            for one in self.branches[index]:
                if not one.ready(ctx):
                    return False
        return True


class OfLinear:
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
        self.call(self.address, flat.shape[0], threads(), flat.data_ptr(), y.data_ptr())
        return y.view(*x.shape[:-1], -1).to(x.dtype)

    def __reduce__(self) -> Any:
        """A copy of the model is torch's."""
        return getattr, (self.module, "forward")


def few(x: Tensor, most: int | None = ROWS) -> bool:
    """Whether x is few rows on the CPU (None: or many) that nobody differentiates, traces or casts."""
    return (
        x.ndim > 1
        and x.numel() > 0
        and (most is None or x.numel() <= most * x.shape[-1])
        and x.dtype in FLOATS
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


Native = NativeStack | OfLinear


def put(module: nn.Module, name: str, native: Native) -> None:
    """Let `native` answer for a method of this one module."""
    module.__dict__[name] = native


def taken(module: nn.Module) -> dict[str, Any]:
    """Which methods of a module are answered natively."""
    return {name: value for name, value in module.__dict__.items() if isinstance(value, NativeStack | OfLinear)}


__all__ = ["ROWS", "AttentionBranch", "NativeLinear", "NativeStack", "OfLinear", "few", "put", "taken"]
