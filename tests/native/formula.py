"""What the kernels compute, written with torch: the same rounding of weights and of inputs, sums in double."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from regard.adapt.quantized import GROUP, round4, round8
from regard.native import layout
from regard.nn import Attend, Linear


def rounded_input(x, group):
    """Each `group` numbers of a row as bytes times their largest / 127."""
    parts = F.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    peak = parts.abs().amax(-1, keepdim=True)
    rate = torch.where(peak > 0, torch.full_like(peak, 127) / peak, 0.0)  # `127 / peak` is rounded twice
    return ((parts * rate).round() * (peak / 127)).flatten(-2)[..., : x.shape[-1]]


def rounded_weight(weight, precision):
    """What is left of float32 weights (N, K)."""
    if precision == "int8":
        q, scale = round8(weight)
        return q.float() * scale[:, None]
    if precision == "int4":
        q, scale = round4(weight)
        both = torch.stack([q & 15, q >> 4], 2).flatten(1).to(torch.int16)
        wide = (both - ((both & 8) << 1)).float().unflatten(1, (-1, GROUP)) * scale[..., None]
        return wide.flatten(1)[:, : weight.shape[1]]
    return weight.bfloat16().float() if precision == "bf16" else weight


def product(x, weight, bias, precision):
    """x W^T + b as the kernels round it."""
    group = {"int8": 64, "int4": 32}.get(precision)
    x = x.bfloat16() if precision == "bf16" else x
    wide = (x if group is None else rounded_input(x, group)).double()
    y = wide @ rounded_weight(weight, precision).double().T
    return (y if bias is None else y + bias).float()


class Rounded(Linear):
    """A linear by `product`, while it is `active`."""

    precision, active = "fp32", True

    def forward(self, x):
        return product(x, self.weight, self.bias, self.precision) if self.active else super().forward(x)


class RoundedAttend(Attend):
    """Attention as the kernels compute it beside small weights: from 64 tokens on, of bf16 where the processor has
    products of it."""

    def forward(self, q, k, v, mask, bias):
        if q.shape[2] < 64 or layout.kernels().rg_level() < 3:
            return super().forward(q, k, v, mask, bias)
        halves = [x.bfloat16().double() for x in (q * (self.scale or q.shape[-1] ** -0.5), k, v)]
        q, k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in halves)
        scores = q @ k.mT if bias is None else q @ k.mT + bias
        if mask is not None:
            tril = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            scores = scores.masked_fill(~(tril if isinstance(mask, str) else mask), -torch.inf)
        e = (scores - scores.amax(-1, keepdim=True)).exp()
        return (e.bfloat16().double() @ v / e.sum(-1, keepdim=True)).float()


def rounded(module, precision):
    """The same module; its linears compute as the kernels would."""
    for one in module.modules():
        if type(one) is Linear:
            one.__class__, one.precision = Rounded, precision
        if type(one) is Attend and precision in ("int8", "int4"):
            one.__class__ = RoundedAttend
    return module


def rounded_model(model, precision):
    """A copy whose decoder and head compute as the kernels would: the prompt by torch, what follows rounded."""
    model = copy.deepcopy(model)
    stack = model.decoder.stack
    rounded(stack, precision), rounded(model.head, precision)
    real = stack.through

    def through(x, ctx):
        for module in stack.modules():
            module.active = ctx.cache.room(0) is not None
        return real(x, ctx)

    stack.through = through
    return model
