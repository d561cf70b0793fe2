"""Fused kernels for writing on a CPU: a pass over a loaded model that can be taken back.

The modules stay what they are. Where a pass has few rows, as when text is written token by token, the layers of the
decoder run in C++ (kernels.cpp); reading a prompt, training, hooks and bricks that the kernels do not know go through
torch as before.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TypeVar

from torch import nn

from regard.adapt.quantized import Quantized
from regard.models.model import Model
from regard.native.best import NativeBest
from regard.native.branches import TorchBranch
from regard.native.build import NoKernels
from regard.native.layout import kernels, level
from regard.native.run import NativeLinear, NativeStack, put, taken
from regard.native.weights import PRECISIONS, Precision, Store, Unknown
from regard.native.writing import Writer
from regard.nn import LanguageHead

__all__ = ["NoKernels", "apply", "available", "level", "reason", "remove", "suits", "taken", "unknown", "writes"]

M = TypeVar("M", bound=Model)


def reason() -> str | None:
    """Why there are no kernels on this machine, or None; compiles them if that was not done before."""
    try:
        kernels()
    except NoKernels as error:
        return str(error)
    return None


def available() -> bool:
    """Whether there are kernels on this machine."""
    return reason() is None


def apply(model: M, precision: Precision = "auto", *, required: bool = False, quiet: bool = False) -> M:
    """Let a model's decoder write with the kernels, and quantized towers read; the same model, changed in place.

    `precision`: "auto" reads weights as they are (float32, bfloat16, or quantized before); "fp32", "bf16", "int8" (a
    scale per output) and "int4" (a scale per 32 inputs) read copies made of them. Quantized linears also read prompts
    so. Where there are no kernels, or none for this model, says so (unless `quiet`) and leaves the model as it is, or
    raises NoKernels where they are `required`.
    Raises ValueError for another precision, and for a model that neither writes nor is quantized.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    if not suits(model):
        what = model.architecture or "this model"
        raise ValueError(f"{what} neither writes nor has quantized layers: the kernels are for nothing else")
    remove(model)
    why = reason() if model.device.type == "cpu" else f"the kernels are for a CPU, and this model is on {model.device}"
    if why is None:
        unknown: list[str] = []
        for tower in model.towers():
            writing = writes(model) and tower is model.decoder
            small = [module for module in tower.stack.modules() if isinstance(module, Quantized)]
            if not writing and not small:
                continue
            store = Store(precision if writing else "auto")
            stack = NativeStack(tower.stack, store)
            if all(isinstance(one, TorchBranch) for layer in stack.branches.values() for one in layer):
                unknown += stack.unknown
                continue
            put(tower.stack, "through", stack)
            for linear in [*small, *([model.head.out] if writing else [])]:
                put(linear, "forward", NativeLinear(linear, store))
            if writing:
                put(model.head, "best", NativeBest(model.head, store))
                with suppress(Unknown):
                    put(model, "write", Writer(model, stack, store))
        if any(taken(module) for module in model.modules()):
            return model
        why = f"the kernels know no part of its layers: {', '.join(unknown[:3])}"
    if required:
        raise NoKernels(why)
    if not quiet:
        print(f"regard: {'writing' if writes(model) else 'reading'} goes through torch, as {why}", file=sys.stderr)
    return model


def suits(model: Model) -> bool:
    """Whether the kernels have something to do: a model writes, or has quantized layers to read with."""
    return writes(model) or any(isinstance(module, Quantized) for module in model.modules())


def writes(model: Model) -> bool:
    """Whether a model writes text token by token."""
    return model.decoder is not None and isinstance(model.head, LanguageHead)


def remove(model: M) -> M:
    """Take the kernels back: everything goes through torch again."""
    for module in model.modules():
        for name in taken(module):
            del module.__dict__[name]
    return model


def unknown(model: nn.Module) -> list[str]:
    """Paths of those parts of the decoder that the kernels do not know and torch goes on computing."""
    found = []
    for path, module in model.named_modules():
        for native in taken(module).values():
            if isinstance(native, NativeStack):
                found += [f"{path}.{name}" for name in native.unknown]
    return found
