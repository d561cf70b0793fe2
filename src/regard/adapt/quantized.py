"""Linear layers with small weights: int8, int4 and bfloat16, run by torch's own operations on a CPU.

Weights are kept as (out, in) whatever a kernel wants: `weight` int8 with a `scale` per output, or `weight` uint8 with
two numbers in a byte, the first in the low half, and a `scale` per 32 inputs. What a kernel wants is made of them when
it is first needed, and takes their place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.nn.linear import Linear

GROUP = 32
"""Inputs that share a scale in int4."""
_TINY = 1e-30
_ROWS = 128  # so many rows are rounded at a time: they stay in the cache
_INT8: Any = None
_INT4: Any = None
if torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise"):
    _INT8 = torch.ops.onednn.qlinear_pointwise.default
    _INT4 = getattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu", None)


def round8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Floats (N, K) -> int8 (N, K) from -127 to 127 and scale (N,) float32: weight = q * scale."""
    wide = weight.detach().float()
    scale = (wide.abs().amax(1) / 127).clamp_(min=_TINY)
    return (wide / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def round4(weight: Tensor, tries: int = 12) -> tuple[Tensor, Tensor]:
    """Floats (N, K) -> uint8 (N, K' / 2) and scale (N, K' / 32) float32, q from -8 to 7; K' is K up to 32.

    Each scale is the one of `tries` with the least squared error; the kept ones are float16 numbers.
    """
    done = [_round4(rows, tries) for rows in weight.detach().split(_ROWS)]
    q, scale = zip(*done, strict=True)
    return torch.cat(q), torch.cat(scale)


def _round4(weight: Tensor, tries: int) -> tuple[Tensor, Tensor]:
    groups = F.pad(weight.float(), (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    best = torch.full(groups.shape[:2], torch.inf, device=weight.device)
    scale = torch.zeros_like(best)
    peak = groups.gather(2, groups.abs().argmax(2, keepdim=True))[..., 0]
    for i in range(tries):
        part = peak / (-8 + 0.25 * i)  # the sign lets the largest number be -8
        part = part.half().float()
        part = torch.where(part.abs() < 1e-7, torch.ones_like(part), part)
        error = (_steps4(groups, part) * part[..., None] - groups).square_().sum(2)
        scale, best = torch.where(error < best, part, scale), torch.minimum(error, best)
    q = _steps4(groups, scale).flatten(1).to(torch.int8)
    low, high = (q & 15).view(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return low | high << 4, scale


def _steps4(groups: Tensor, scale: Tensor) -> Tensor:
    return (groups / scale[..., None]).round_().clamp_(-8, 7)


def rows8(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """float32 (M, K) -> uint8 (M, K), and a scale and a middle for each row (M, 1): x = (q - 128) * scale + middle.

    A row's numbers do not depend on the rows beside it, so neither packs nor padding change a result.
    """
    q = torch.empty(x.shape, dtype=torch.int8)
    scale, middle = x.new_empty(x.shape[0], 1), x.new_empty(x.shape[0], 1)
    for part, rate, mid, out in zip(*(t.split(_ROWS) for t in (x, scale, middle, q)), strict=True):
        high, low = part.amax(1, keepdim=True), part.amin(1, keepdim=True)
        torch.add(high, low, out=mid).mul_(0.5)
        torch.sub(high, low, out=rate).clamp_(min=_TINY).div_(254)
        inverse = rate.reciprocal()
        out.copy_(torch.mul(part, inverse).sub_(inverse.mul_(mid)).round_())
    return q.view(torch.uint8).bitwise_xor_(128), scale, middle


class Quantized(nn.Module, ABC):
    """A linear whose weights are no floats. `weight` is always there as it is kept, made again from the kernel's copy
    if that has taken its place.
    """

    precision: ClassVar[str]
    scale: Tensor

    @staticmethod
    @abstractmethod
    def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Floats (out, in) -> `weight` and `scale`."""

    @staticmethod
    @abstractmethod
    def room(out: int, inputs: int) -> tuple[Tensor, Tensor]:
        """`weight` and `scale` on `meta`. Not by rounding: torch imports its compiler to follow arithmetic there."""

    @classmethod
    def of(cls, linear: nn.Linear) -> Self:
        """The nearest to a linear."""
        return cls(*cls.rounded(linear.weight), linear.bias, linear.in_features)

    @classmethod
    def empty(cls, linear: nn.Linear) -> Self:
        """One of the same shape on `meta`, to be filled."""
        return cls(*cls.room(linear.out_features, linear.in_features), linear.bias, linear.in_features)

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, in_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, weight.shape[0]
        self.kept: Tensor | None = weight
        self.mapped = False  # whether `kept` lies in a file
        self.packed: Any = None
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weights as they are kept, (out, ...)."""
        assert self.kept is not None
        return self.kept

    @abstractmethod
    def floats(self) -> Tensor:
        """The weights (out, in) as float32."""

    @abstractmethod
    def pack(self) -> None:
        """Make what the kernel reads, and let go of what it was made of."""

    @abstractmethod
    def fast(self, x: Tensor) -> Tensor:
        """float32 (M, in) -> (M, out) by the kernel."""

    def suits(self, x: Tensor) -> bool:
        """Whether the kernel may run; else weights are made floats for the moment."""
        return (
            x.device.type == self.scale.device.type == "cpu"
            and self.scale.dtype == torch.float32
            and x.numel() > 0
            and not torch.jit.is_tracing()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and bool(torch.backends.mkldnn.enabled)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) of the type of x."""
        if x.shape[-1] != self.in_features:
            raise RuntimeError(f"x is {tuple(x.shape)}; this layer takes {self.in_features} channels")
        if not self.suits(x):
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return F.linear(x, self.floats().to(x.dtype), bias)
        flat = x.reshape(-1, self.in_features).float()
        y: Tensor = _Through.apply(flat, self) if torch.is_grad_enabled() and x.requires_grad else self.fast(flat)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Quantized:
        scale, bias = self.scale, None if self.bias is None else self.bias.data
        self.kept, self.mapped = self.weight, self.mapped and self.kept is not None
        self.packed = None
        super()._apply(fn, recurse)
        if self.scale.device != self.kept.device:
            self.mapped = False
            self.kept = (
                torch.empty_like(self.kept, device="meta") if self.scale.is_meta else self.kept.to(self.scale.device)
            )
        if self.scale.dtype != torch.float32:  # a model in half precision keeps its scales
            self.scale = scale.to(self.scale.device)
            if self.bias is not None and bias is not None:
                self.bias.data = bias.to(self.scale.device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        found = state.pop(prefix + "weight", None)
        super()._load_from_state_dict(state, prefix, *rest)
        if found is None:
            rest[2].append(prefix + "weight")  # the missing keys
        elif found.shape != self.weight.shape or found.dtype != self.weight.dtype:
            rest[4].append(f"{prefix}weight is {found.dtype} {tuple(found.shape)}, not {tuple(self.weight.shape)}")
        else:
            self.kept, self.packed, self.mapped = found.clone(), None, False

    def __getstate__(self) -> dict[str, Any]:  # kernels' copies can be neither copied nor written
        return {**self.__dict__, "kept": self.weight, "packed": None, "mapped": False}

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.precision}"


class _Through(torch.autograd.Function):
    """Gradients go through a layer that itself does not learn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantized) -> Tensor:
        ctx.layer = layer
        return layer.fast(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.floats().to(grad.dtype), None


class Int8Linear(Quantized):
    """Weights int8 with a scale per output; each row of the input is rounded to int8 with a scale of its own."""

    precision = "int8"
    rounded = staticmethod(round8)

    @staticmethod
    def room(out: int, inputs: int) -> tuple[Tensor, Tensor]:
        return torch.empty(out, inputs, dtype=torch.int8, device="meta"), torch.empty(out, device="meta")

    @property
    def weight(self) -> Tensor:
        """The weights as they are kept, (out, in)."""
        if self.kept is not None:
            return self.kept
        return self.packed[0].to_dense().t().contiguous()  # type: ignore[no-any-return]

    def suits(self, x: Tensor) -> bool:
        return _INT8 is not None and super().suits(x)

    def floats(self) -> Tensor:
        return self.weight.float() * self.scale[:, None]

    def pack(self) -> None:
        assert self.kept is not None
        sums = self.kept.sum(1, dtype=torch.float32).mul_(self.scale)
        zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(self.kept, None), zeros, sums
        self.kept = None

    def fast(self, x: Tensor) -> Tensor:
        if self.packed is None:
            self.pack()
        weight, zeros, sums = self.packed
        q, scale, middle = rows8(x)
        y: Tensor = _INT8(q, 1.0, 128, weight, self.scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        for part, rate, mid in zip(y.split(_ROWS), scale.split(_ROWS), middle.split(_ROWS), strict=True):
            part.mul_(rate) if self.bias is None else torch.addcmul(self.bias, part, rate, out=part)
            part.addcmul_(mid, sums)  # what the middles are worth
        return y


class Int4Linear(Quantized):
    """Weights of 4 bits with a scale per 32 inputs; inputs are bfloat16."""

    precision = "int4"
    rounded = staticmethod(round4)

    @staticmethod
    def room(out: int, inputs: int) -> tuple[Tensor, Tensor]:
        groups = -(-inputs // GROUP)
        weight = torch.empty(out, groups * GROUP // 2, dtype=torch.uint8, device="meta")
        return weight, torch.empty(out, groups, device="meta")

    def suits(self, x: Tensor) -> bool:  # with many rows the products cost more than making floats once
        few = x.numel() <= 16 * self.in_features
        return _INT4 is not None and few and self.out_features % 64 == 0 and super().suits(x)

    def _steps(self) -> Tensor:  # (N, K') from -8 to 7
        both = torch.stack([self.weight & 15, self.weight >> 4], 2).flatten(1).view(torch.int8)
        return both - ((both & 8) << 1)

    def floats(self) -> Tensor:
        wide = self._steps().float().unflatten(1, (-1, GROUP)) * self.scale[..., None]
        return wide.flatten(1)[:, : self.in_features].contiguous()

    def pack(self) -> None:
        steps = (self._steps() + 8).int()
        rates = torch.stack([self.scale, torch.zeros_like(self.scale)], 2).transpose(0, 1).bfloat16().contiguous()
        self.packed = (torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 1), rates)

    def fast(self, x: Tensor) -> Tensor:
        if self.packed is None:
            self.pack()
        wide = F.pad(x, (0, -self.in_features % GROUP)).bfloat16()
        y: Tensor = _INT4(wide, self.packed[0], GROUP, self.packed[1]).float()
        return y if self.bias is None else y.add_(self.bias)


class HalfLinear(nn.Linear):
    """Weights bfloat16, and the product too; what comes out has the type of what came in, unless `narrow`."""

    precision = "bf16"
    narrow = False

    @classmethod
    def of(cls, linear: nn.Linear) -> HalfLinear:
        """The nearest to a linear."""
        new = cls.empty(linear)
        new.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=linear.weight.requires_grad)
        if linear.bias is not None:
            new.bias = nn.Parameter(linear.bias.detach().bfloat16(), requires_grad=linear.bias.requires_grad)
        return new

    @classmethod
    def empty(cls, linear: nn.Linear) -> HalfLinear:
        """One of the same shape on `meta`, to be filled."""
        bias = linear.bias is not None
        return cls(linear.in_features, linear.out_features, bias, device="meta", dtype=torch.bfloat16)

    def floats(self) -> Tensor:
        """The weights (out, in) as float32."""
        return self.weight.float()

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return y if self.narrow else y.float()


KINDS: dict[str, type[Int8Linear] | type[Int4Linear] | type[HalfLinear]] = {
    "bf16": HalfLinear,
    "int8": Int8Linear,
    "int4": Int4Linear,
}


def plain(layer: Quantized | HalfLinear) -> Linear:
    """A float32 linear that does what a quantized one does, but for the rounding of inputs."""
    new = Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    new.weight = nn.Parameter(layer.floats())
    if layer.bias is not None:
        new.bias = nn.Parameter(layer.bias.detach().float())
    return new
