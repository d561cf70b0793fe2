"""What a linear or a norm holds, as the kernels read it: in place where torch's storage will do, else a packed copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.native import layout
from regard.nn import LayerScale, Linear, RMSNorm, TanhGate

Precision = Literal["auto", "fp32", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "int8", "int4")


class Unknown(Exception):
    """A brick is not one that the kernels know: it goes on as it is."""


class Store:
    """Turns modules into structures and keeps alive what these point to; `precision` is what linears become."""

    def __init__(self, precision: Precision):
        self.precision = precision
        self.kept: list[Tensor] = []
        self.sources: list[Tensor] = []  # parameters that were read, in place or into a copy
        self.parts: list[Tensor] = []  # weights as they are read for each token
        self._linears: dict[int, layout.Linear] = {}
        self._numbers: dict[object, int] = {}

    def number(self, what: object) -> int:
        """The same small number for equal things."""
        return self._numbers.setdefault(what, len(self._numbers))

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
        weight, bias = self.vector(module.weight), self.vector(bias)
        return layout.Norm(weight, bias, module.eps, offset, layout.NORMS[kind])

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

    def _linear(self, module: nn.Module) -> layout.Linear:
        weight, scale = getattr(module, "weight", None), getattr(module, "scale", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.device.type != "cpu":
            raise Unknown(type(module).__name__)
        bias = self.vector(getattr(module, "bias", None))
        self.sources += [weight] if scale is None else [weight, scale]
        if isinstance(scale, Tensor) and weight.dtype in (torch.int8, torch.uint8):
            kind = "int8" if weight.dtype == torch.int8 else "int4"
            held, inputs = (weight, scale), weight.shape[1] * (1 if kind == "int8" else 2)
            return self._packed(kind, *held, bias, inputs)
        if type(module) not in (Linear, nn.Linear) or weight.dtype not in (torch.float32, torch.bfloat16):
            raise Unknown(type(module).__name__)
        weight = weight.detach()
        kind = self.precision
        if kind == "auto":
            kind = "fp32" if weight.dtype == torch.float32 else "bf16"
        if kind in QUANTIZERS:
            return self._packed(kind, *QUANTIZERS[kind](weight.float()), bias, weight.shape[1])
        weight = weight.to(torch.float32 if kind == "fp32" else torch.bfloat16).contiguous()
        self.parts.append(weight)
        return layout.Linear(self.pointer(weight), None, bias, *weight.shape, layout.KINDS[kind])

    def _packed(self, kind: str, weight: Tensor, scale: Tensor, bias: int | None, inputs: int) -> layout.Linear:
        out = weight.shape[0]
        packed = pack8(weight) if kind == "int8" else pack4(weight, scale)
        rates = F.pad(scale.float(), (0, -out % 64)).contiguous() if kind == "int8" else None
        self.parts.append(packed)
        return layout.Linear(self.pointer(packed), self.pointer(rates), bias, out, inputs, layout.KINDS[kind])


def _up(n: int) -> int:
    return -(-n // 64) * 64


def pack8(weight: Tensor) -> Tensor:
    """int8 (N, K), nothing below -127 -> the kernels' order."""
    weight = weight.detach().contiguous()
    out, inputs = weight.shape
    packed = torch.empty(_up(out) * _up(inputs), dtype=torch.uint8)
    layout.kernels().rg_pack8(weight.data_ptr(), out, inputs, packed.data_ptr(), torch.get_num_threads())
    return packed


def pack4(weight: Tensor, scale: Tensor) -> Tensor:
    """uint8 (N, K / 2), two numbers each, the first in the low half, and scale (N, K / 32) -> the kernels' order."""
    weight, half = weight.detach().contiguous(), scale.detach().to(torch.float16).contiguous()
    out, pairs = weight.shape
    if pairs % 16 or half.shape != (out, pairs // 16):
        raise ValueError(f"int4 scale is {tuple(half.shape)}; allowed: {(out, pairs // 16)}, one for 32 numbers")
    packed = torch.empty(_up(out) // 64 * (_up(2 * pairs) // 32) * 1152, dtype=torch.uint8)
    layout.kernels().rg_pack4(weight.data_ptr(), half.data_ptr(), out, 2 * pairs, packed.data_ptr())
    return packed


def quantize8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float32 (N, K) -> int8 (N, K) and scale (N,), symmetric: weight = q * scale, q from -127 to 127."""
    scale = weight.abs().amax(1) / 127
    q = (weight / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().clamp(-127, 127)
    return q.to(torch.int8), scale


def quantize4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float32 (N, K) -> uint8 (N, K' / 2) and scale (N, K' / 32), symmetric, q from -7 to 7; K' is K up to 32."""
    groups = F.pad(weight, (0, -weight.shape[1] % 32)).unflatten(1, (-1, 32))
    scale = (groups.abs().amax(2) / 7).half().float()  # as it is kept
    q = (groups / scale.clamp(min=torch.finfo(torch.float16).tiny)[..., None]).round().clamp(-7, 7)
    low, high = (q.flatten(1).to(torch.int8) & 15).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return low | high << 4, scale


QUANTIZERS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"int8": quantize8, "int4": quantize4}


def same_kind(*linears: Any) -> None:
    """Linears that read one input must read it in one form."""
    if len({linear.kind for linear in linears}) > 1:
        raise Unknown("linears of several kinds")
