"""Learned factors of channels: (IA)3 (2205.05638)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.adapt.config import IA3Config
from regard.adapt.layers import Adapter
from regard.adapt.lora import place, sizes
from regard.adapt.surgery import Site


class Factors(Adapter):
    """What a module gives, or with `inputs` what goes into it, times one learned factor (out,) or (in,) a channel."""

    def __init__(self, factor: nn.Parameter, inputs: bool):
        super().__init__()
        self.factor, self.inputs = factor, inputs

    def before(self, x: Tensor) -> Tensor:
        return (x * self.factor).to(x.dtype) if self.inputs else x

    def after(self, x: Tensor, plain: Tensor, y: Tensor, base: nn.Module) -> Tensor:
        return y if self.inputs else (y * self.factor).to(y.dtype)

    def change(self, weight: Tensor, bias: Tensor | None, plain: Tensor) -> tuple[Tensor, Tensor | None]:
        factor = self.factor.detach()
        if self.inputs:
            return (weight * factor).to(weight.dtype), bias
        table = weight.shape[0] != factor.shape[0]  # (ids, channels)
        scaled = weight * factor if table else weight * factor[:, None]
        return scaled.to(weight.dtype), None if bias is None else (bias * factor).to(bias.dtype)


def make(config: IA3Config, site: Site, bases: list[nn.Module], inputs: bool) -> list[Adapter]:
    """New adapters for the parts of a site; factors of inputs are shared by its parts."""
    width, outputs = sizes(bases)
    where, kind = place(bases[0])
    factor = torch.ones(width if inputs else sum(outputs), device=where, dtype=kind)
    if not config.init_ia3_weights:
        nn.init.normal_(factor)
    if inputs:
        shared = nn.Parameter(factor)
        return [Factors(shared, True) for _ in bases]
    return [Factors(nn.Parameter(part.clone()), False) for part in site.split(factor)]
