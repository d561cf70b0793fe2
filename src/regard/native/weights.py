"""What a linear or a norm holds, as the kernels read it: in place where torch's storage will do, else a packed copy."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.adapt.quantized import HalfLinear, Int4Linear, Int8Linear, round4, round8
from regard.checkpoint.memory import give_back
from regard.memory import Arena
from regard.native import layout
from regard.native.threads import threads
from regard.nn import LayerScale, Linear, RMSNorm, TanhGate

Precision = Literal["auto", "fp32", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "int8", "int4")
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
ROUNDED = {"int8": round8, "int4": round4}


class Unknown(Exception):
    """A brick is not one that the kernels know: it goes on as it is."""


class Store:
    """Turns modules into structures and keeps alive what these point to; `precision` is what linears become."""

    def __init__(self, precision: Precision):
        self.precision = precision
        self.kept: list[Tensor] = []
        self.sources: list[Tensor] = []  # parameters that were read, in place or into a copy
        self.parts: list[Tensor] = []  # weights as they are read for each token
        self._arena = Arena()
        self._linears: dict[int, layout.Linear] = {}

    def pointer(self, x: Tensor | None) -> int | None:
        """The address of a tensor, which stays alive."""
        if x is None:
            return None
        self.kept.append(x)
        return x.data_ptr()

    def vector(self, x: Tensor | None) -> int | None:
        """The address of float32 numbers: the parameter's own, or a copy of another type."""
        if x is None:
            return None
        self.sources.append(x)
        return self.pointer(x.detach().float().contiguous())

    def norm(self, module: nn.Module | None) -> layout.Norm:
        """A LayerNorm or RMSNorm; None is none."""
        if module is None:
            return layout.Norm()
        if type(module) is nn.LayerNorm and module.weight is not None:
            kind, offset, bias = "layer", 0.0, module.bias
        elif type(module) is RMSNorm:
            kind, offset, bias = "rms", module.offset, None
        else:
            raise Unknown(type(module).__name__)
        return layout.Norm(self.vector(module.weight), self.vector(bias), module.eps, offset, layout.NORMS[kind])

    def scale(self, module: nn.Module | None, dim: int) -> int | None:
        """One factor per channel of what a branch adds."""
        if module is None:
            return None
        if type(module) not in (LayerScale, TanhGate):
            raise Unknown(type(module).__name__)
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.sources.append(weight)
        factor = weight.detach().float()
        return self.pointer((factor.tanh() if type(module) is TanhGate else factor).expand(dim).contiguous())

    def linear(self, module: nn.Module) -> layout.Linear:
        """A linear as `precision` says, or as it is where that is "auto" or it is quantized already."""
        if id(module) not in self._linears:
            self._linears[id(module)] = self._linear(module)
        return self._linears[id(module)]

    @property
    def kinds(self) -> set[int]:
        """The kinds of all linears so far."""
        return {linear.kind for linear in self._linears.values()}

    def _linear(self, module: nn.Module) -> layout.Linear:
        if isinstance(module, Int8Linear | Int4Linear):
            self.sources.append(module.scale)
            return self._packed(module.precision, module.weight, module.scale, module)
        if type(module) not in (Linear, nn.Linear, HalfLinear):
            raise Unknown(type(module).__name__)
        weight: Tensor = module.weight.detach()  # type: ignore[union-attr,operator]
        self.sources.append(weight)
        if weight.dtype not in NAMES or weight.device.type != "cpu":
            raise Unknown(f"{type(module).__name__} of {weight.dtype} on {weight.device}")
        kind = NAMES[weight.dtype] if self.precision == "auto" else self.precision
        if kind in ROUNDED:
            return self._packed(kind, *ROUNDED[kind](weight), module)
        weight = self._floats(weight, torch.float32 if kind == "fp32" else torch.bfloat16)
        self.parts.append(weight)
        bias = self.vector(module.bias)  # type: ignore[arg-type]
        return layout.Linear(self.pointer(weight), None, bias, *weight.shape, layout.KINDS[kind])

    def _floats(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        if weight.dtype == dtype and weight.is_contiguous():
            return weight
        found = self._arena.take(weight.numel() * dtype.itemsize).view(dtype)
        return found.view(weight.shape).copy_(weight)

    def _packed(self, kind: str, weight: Tensor, scale: Tensor, module: Any) -> layout.Linear:
        out, inputs, bias = weight.shape[0], module.in_features, self.vector(module.bias)
        packed = pack8(weight, self._arena) if kind == "int8" else pack4(weight, scale, self._arena)
        if getattr(module, "mapped", False) and not weight.is_inference() and weight._version == 0:
            give_back(weight)  # nobody has written to it: it can be read again
        rates = F.pad(scale.detach().float(), (0, -out % 64)).contiguous() if kind == "int8" else None
        self.parts.append(packed)
        return layout.Linear(self.pointer(packed), self.pointer(rates), bias, out, inputs, layout.KINDS[kind])


def _up(n: int) -> int:
    return -(-n // 64) * 64


def pack8(weight: Tensor, arena: Arena) -> Tensor:
    """int8 (N, K), nothing below -127 -> the kernels' order."""
    weight = weight.detach().contiguous()
    out, inputs = weight.shape
    packed = arena.take(_up(out) * _up(inputs))
    layout.kernels().rg_pack8(weight.data_ptr(), out, inputs, packed.data_ptr(), threads(out))
    return packed


def pack4(weight: Tensor, scale: Tensor, arena: Arena) -> Tensor:
    """uint8 (N, K / 2), two numbers each, the first in the low half, and scale (N, K / 32) -> the kernels' order."""
    weight, half = weight.detach().contiguous(), scale.detach().to(torch.float16).contiguous()
    out, pairs = weight.shape
    if pairs % 16 or half.shape != (out, pairs // 16):
        raise ValueError(f"int4 scale is {tuple(half.shape)}; allowed: {(out, pairs // 16)}, one for 32 numbers")
    packed = arena.take(_up(out) // 64 * (_up(2 * pairs) // 32) * 1152)
    layout.kernels().rg_pack4(weight.data_ptr(), half.data_ptr(), out, 2 * pairs, packed.data_ptr(), threads(out))
    return packed


def same_kind(*linears: Any) -> None:
    """Linears that read one input must read it in one form."""
    if len({linear.kind for linear in linears}) > 1:
        raise Unknown("linears of several kinds")
