"""`regard show`: a model's resolved tree with shapes, parameter counts and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import nn

from regard.config import ClassifierHeadConfig, Config, TokenHeadConfig
from regard.models.model import Model, QueryModel


def counted(n: float, units: str = " KMGT", step: float = 1000.0) -> str:
    """1234567 -> 1.23M"""
    for unit in units:
        if abs(n) < step or unit == units[-1]:
            return f"{n:.3g}{unit}".strip() if unit != " " else f"{n:.0f}"
        n /= step
    return f"{n:g}"


def summary(model: Model) -> dict[str, Any]:
    """Parameters, bytes, context and cost per token of a model, as plain values."""
    parameters = list({id(p): p for p in model.parameters()}.values())
    count = sum(p.numel() for p in parameters)
    return {
        "name": model.name,
        "architecture": model.architecture,
        "parameters": count,
        "bytes": sum(p.nbytes for p in parameters),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        "max_length": model.max_length,
        "cache_bytes_per_token": sum(
            2 * a.kv_heads * a.head_dim * parameters[0].element_size() for a in _decoder_attentions(model)
        ),
        "labels": model.labels if isinstance(model.config.head, (ClassifierHeadConfig, TokenHeadConfig)) else {},
    }


def _decoder_attentions(model: Model) -> Iterator[Any]:
    if model.decoder is not None and not isinstance(model, QueryModel):  # queries are all answered at once
        stack = model.config.decoder.stack  # type: ignore[union-attr]
        yield from (stack.layers[i].attention for i in stack.order if stack.layers[i].attention is not None)


def tree_lines(model: nn.Module, *, depth: int = 99) -> list[tuple[int, str, str, str]]:
    """(depth, name, what it is, parameters) for each module, equal neighbours of a list folded into one line."""
    return list(_lines("model", model, 0, depth))


def _lines(name: str, module: nn.Module, level: int, depth: int) -> Iterator[tuple[int, str, str, str]]:
    count = sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())
    yield level, name, _what(module), counted(count) if count else ""
    own = [(n, p) for n, p in module.named_parameters(recurse=False)]
    if not isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm)):
        for n, p in own:
            yield level + 1, n, f"parameter {'x'.join(map(str, p.shape))}", counted(p.numel())
    if level >= depth:
        return
    children = list(module.named_children())
    while children:
        first_name, first = children.pop(0)
        same = 1
        while children and isinstance(module, nn.ModuleList) and repr(children[0][1]) == repr(first):
            last = children.pop(0)[0]
            same += 1
        label = first_name if same == 1 else f"{first_name}-{last}  ({same} alike, one shown)"
        yield from _lines(label, first, level + 1, depth)


def _what(module: nn.Module) -> str:
    name = type(module).__name__
    if isinstance(module, (nn.Linear, nn.Embedding)):
        shape = "x".join(map(str, module.weight.shape))
        tail = f" {str(module.weight.dtype).removeprefix('torch.')}"
        bias = " + bias" if getattr(module, "bias", None) is not None else ""
        return f"{name} {shape}{bias}{tail}"
    config = getattr(module, "config", None)
    if isinstance(config, Config):
        return f"{name}  {_facts(config)}".rstrip()
    extra = module.extra_repr()
    return f"{name} {extra}".rstrip()


_SHOWN_BELOW = {
    "encoder",
    "decoder",
    "head",
    "front",
    "stack",
    "layers",
    "attention",
    "cross",
    "feed_forward",
    "expert",
}
_SHOWN_BELOW |= {"expert", "norm", "final_norm", "transform", "pooler", "bias"}


def _facts(config: Config) -> str:
    """The fields that differ from their defaults, but for the parts that have lines of their own."""
    facts = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Config) and field.name in _SHOWN_BELOW:
            continue
        if value == field.default or (isinstance(value, tuple) and any(isinstance(v, Config) for v in value)):
            continue
        if isinstance(value, Config):
            inner = _facts(value)
            facts.append(f"{field.name}={type(value).__name__.removesuffix('Config')}({inner})")
        elif not (isinstance(value, tuple) and len(value) > 8):
            facts.append(f"{field.name}={value}")
    return ", ".join(facts)
