"""Matrix products of training by the kernel that suits the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.nn.attention import Attend
from regard.nn.linear import _ONEDNN, Linear

LARGE = 2**18
"""Weights with fewer numbers are left to torch's own, which is as fast there."""


@contextmanager
def quick_products(model: nn.Module) -> Iterator[None]:
    """Within, products on a CPU run as suits training there, forwards and backwards: as exact, and faster.

    Linear layers in float32 go through oneDNN, and attention in bfloat16 is computed in float32.
    """
    found = [] if _ONEDNN is None else [module for module in model.modules() if type(module) is Linear]
    linears = [m for m in found if m.weight.numel() >= LARGE]
    attention = [module for module in model.modules() if type(module) is Attend]
    layers: list[Any] = [m for m in (*linears, *attention) if "forward" not in vars(m)]
    for layer in layers:
        layer.forward = partial(_forward if isinstance(layer, Linear) else _attended, layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: Linear, x: Tensor) -> Tensor:
    if (
        torch.is_grad_enabled()
        and x.device.type == layer.weight.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and x.ndim > 1
        and 0 not in x.shape
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
    ):
        y: Tensor = _Product.apply(x, layer.weight, layer.bias)
        return y
    return Linear.forward(layer, x)


def _attended(layer: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """The backward pass of torch's fused attention takes five times as long in bfloat16 as in float32."""
    if v.device.type != "cpu" or v.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return Attend.forward(layer, q, k, v, mask, bias)
    with torch.autocast("cpu", enabled=False):  # which would round queries and keys that rotary positions have turned
        wide = None if bias is None else bias.float()
        return Attend.forward(layer, q.float(), k.float(), v.float(), mask, wide).to(v.dtype)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return y


class _Product(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0]
        flat, rows = slope.flatten(0, -2), x.flatten(0, -2)
        quick = not torch.is_grad_enabled()  # a gradient of the gradient needs torch's own
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = (_product(flat, weight.T) if quick else flat @ weight).view_as(x)
        if ctx.needs_input_grad[1]:
            dw = _product(flat.T, rows.T) if quick else flat.T @ rows
        if ctx.needs_input_grad[2]:
            db = flat.sum(0)
        return dx, dw, db
