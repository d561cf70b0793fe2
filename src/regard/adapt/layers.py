"""What is put around a module: `Adapted` for adapters beside it, `Trained` for whole copies of it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from regard.adapt.surgery import Wrapped


class Adapter(nn.Module):
    """One change to one module, under one name. `base` is the module as it is without any adapter."""

    def before(self, x: Tensor) -> Tensor:
        """What goes into the base instead of x (..., in)."""
        return x

    @abstractmethod
    def after(self, x: Tensor, plain: Tensor, y: Tensor, base: nn.Module) -> Tensor:
        """x as it went into the base, what the base gave (..., out), what other adapters made of it -> the result."""

    @abstractmethod
    def change(self, weight: Tensor, bias: Tensor | None, plain: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a module that does the same alone; `plain` is the weight without any adapter."""


class Adapted(Wrapped):
    """A module and its adapters by name, of which those in `active` work, in their order."""

    def __init__(self, base: nn.Module):
        super().__init__(base)
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.kept: tuple[Tensor, Tensor | None] | None = None  # what a merge has replaced

    def working(self) -> Iterator[Adapter]:
        """The adapters that change what the module does now."""
        if self.kept is None:
            yield from (self.adapters[name] for name in self.active if name in self.adapters)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """As the base, x (..., in) -> (..., out), or ids (...) -> (..., out)."""
        adapters = list(self.working())
        for adapter in adapters:
            x = adapter.before(x)
        y = plain = self.base(x)
        for adapter in adapters:
            y = adapter.after(x, plain, y, self.base)
        return y

    def merge(self) -> None:
        """Put what the active adapters do into the base's weight and bias; the old ones are kept for `unmerge`."""
        adapters = list(self.working())
        if not adapters:
            return
        weight, bias = self.base.weight, getattr(self.base, "bias", None)
        assert isinstance(weight, nn.Parameter)
        plain = weight.detach()
        new, new_bias = plain, None if bias is None else bias.detach()
        for adapter in adapters:
            new, new_bias = adapter.change(new, new_bias, plain)
        self.kept = (plain, None if bias is None else bias.detach())
        weight.data = new.to(weight)
        if isinstance(bias, nn.Parameter) and new_bias is not None:
            bias.data = new_bias.to(bias)

    def unmerge(self) -> None:
        """Give the base its own weight and bias back, bit by bit."""
        if self.kept is not None:
            kept, self.kept = self.kept, None
            for own, value in zip((self.base.weight, getattr(self.base, "bias", None)), kept, strict=True):
                if isinstance(own, nn.Parameter) and value is not None:
                    own.data = value.to(own)


class Trained(Wrapped):
    """A module and copies of it by adapter's name; the active adapter's copy works instead of the module."""

    def __init__(self, base: nn.Module):
        super().__init__(base)
        self.copies = nn.ModuleDict()
        self.active: tuple[str, ...] = ()

    def add(self, name: str) -> None:
        """A new copy, as the module is now, with parameters of its own."""
        fresh = copy.deepcopy(self.base)
        for parameter in fresh.parameters():
            parameter.requires_grad = True
        self.copies[name] = fresh

    @property
    def worker(self) -> nn.Module:
        """What works now."""
        return next((self.copies[name] for name in self.active if name in self.copies), self.base)

    @property
    def weight(self) -> Tensor:
        """The working module's."""
        return self.worker.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The working module's."""
        return getattr(self.worker, "bias", None)

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the module."""
        return self.worker(*inputs)
