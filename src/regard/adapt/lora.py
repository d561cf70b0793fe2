"""Low-rank changes of weights: LoRA (2106.09685), its scale for large ranks (2312.03732), and DoRA (2402.09353)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.adapt.config import LoraConfig
from regard.adapt.layers import Adapter
from regard.adapt.surgery import Site, float_weight, is_table
from regard.nn.attention import dropped


class Lora(Adapter):
    """y + scaling * b a x, with a (r, in) and b (out, r); with `magnitude` (out,) it is DoRA.

    Parts of one fused module share `a`.
    """

    def __init__(self, a: nn.Parameter, b: nn.Parameter, scaling: float, dropout: float):
        super().__init__()
        self.a, self.b = a, b
        self.scaling, self.dropout = scaling, dropout
        self.magnitude: nn.Parameter | None = None

    def delta(self) -> Tensor:
        """What is added to the weight (out, in)."""
        return self.scaling * (self.b @ self.a)

    def after(self, x: Tensor, plain: Tensor, y: Tensor, base: nn.Module) -> Tensor:
        wide = dropped(x.to(self.a.dtype), self.dropout, self.training)
        low = self.scaling * F.linear(F.linear(wide, self.a), self.b)
        if self.magnitude is None:
            return y + low.to(y.dtype)
        weight = self.rows(base.weight).to(self.a.dtype)  # type: ignore[arg-type]
        if self.training and self.dropout:
            undirected = F.linear(wide, weight)  # the whole branch sees the dropped input
        else:
            bias = getattr(base, "bias", None)
            undirected = (plain if bias is None else plain - bias).to(self.a.dtype)
        scale = self._scale(weight, self.magnitude)
        return y + ((scale - 1) * undirected + scale * low).to(y.dtype)

    def rows(self, weight: Tensor) -> Tensor:
        """A base's weight as (out, in)."""
        return weight

    def _scale(self, weight: Tensor, magnitude: Tensor) -> Tensor:
        # The length counts as constant in gradients (2402.09353, 4.3).
        return magnitude / torch.linalg.norm(weight + self.delta().detach(), dim=1).detach()

    def change(self, weight: Tensor, bias: Tensor | None, plain: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            wide, delta = self.rows(plain).to(self.a.dtype), self.delta()
            if self.magnitude is not None:
                delta = self._scale(wide, self.magnitude)[:, None] * (wide + delta) - wide
            return (weight.to(self.a.dtype) + self.rows(delta)).to(weight.dtype), bias

    def measure(self, weight: Tensor) -> None:
        """Begin DoRA with rows as long as they are."""
        with torch.no_grad():
            length = torch.linalg.norm(self.rows(weight).to(self.a.dtype) + self.delta(), dim=1)
        self.magnitude = nn.Parameter(length)


class LoraTable(Lora):
    """The same for a table of vectors: ids (...) -> (..., out), a (r, ids), b (out, r). It has no dropout."""

    def after(self, x: Tensor, plain: Tensor, y: Tensor, base: nn.Module) -> Tensor:
        low = self.scaling * F.linear(F.embedding(x, self.a.T), self.b)
        if self.magnitude is None:
            return y + low.to(y.dtype)
        scale = self._scale(self.rows(base.weight).to(self.a.dtype), self.magnitude)  # type: ignore[arg-type]
        return y + ((scale - 1) * plain.to(self.a.dtype) + scale * low).to(y.dtype)

    def rows(self, weight: Tensor) -> Tensor:
        return weight.T


def make(config: LoraConfig, site: Site, bases: list[nn.Module]) -> list[Adapter]:
    """New adapters for the parts of a site. Raises ValueError where DoRA finds no floating-point weights."""
    table = is_table(bases[0])
    inputs, outputs = sizes(bases)
    rank, scaling = config.rank(site.disk), config.scaling(site.disk)
    where, kind = _place(bases[0])
    a = torch.empty(rank, inputs, device=where, dtype=kind)
    b = torch.empty(sum(outputs), rank, device=where, dtype=kind)
    _draw(a, b, config.init_lora_weights, table)
    shared, found = nn.Parameter(a), []
    for base, name, rows in zip(bases, site.ours, site.split(b), strict=True):
        b_part = nn.Parameter(rows.clone())
        lora = (LoraTable if table else Lora)(shared, b_part, scaling, config.lora_dropout)
        if config.use_dora:
            lora.measure(float_weight(base, "DoRA", name))
        found.append(lora)
    return list(found)


def sizes(bases: list[nn.Module]) -> tuple[int, list[int]]:
    """Input channels (ids of a table), and output channels of each part of a site."""
    first = bases[0]
    if isinstance(first, nn.Embedding):
        return first.num_embeddings, [first.embedding_dim]
    return int(first.in_features), [int(base.out_features) for base in bases]  # type: ignore[arg-type]


def _draw(a: Tensor, b: Tensor, init: bool | str, table: bool) -> None:
    """In place. A change of nothing at first, unless `init` is False; tables draw b instead of a."""
    noise, still = (b, a) if table else (a, b)
    if init == "gaussian" and not table:
        nn.init.normal_(noise, std=1 / a.shape[0])
    elif table:
        nn.init.normal_(noise)
    else:
        nn.init.kaiming_uniform_(noise, a=math.sqrt(5))
    if init is False:
        nn.init.kaiming_uniform_(still, a=math.sqrt(5))
    else:
        nn.init.zeros_(still)


def _place(base: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where adapters of a module live, and their type: float32 beside half precision and whole numbers."""
    tensor = next((t for t in (*base.parameters(), *base.buffers())), torch.empty(0))
    return tensor.device, tensor.dtype if tensor.dtype == torch.float64 else torch.float32


place = _place
