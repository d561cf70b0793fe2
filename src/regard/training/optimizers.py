"""Which weights learn, how fast, and by which optimiser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from regard.training.config import OptimizerConfig
from regard.training.muon import Muon

_LAYER = re.compile(r"\b(\w+)\.stack\.layers\.(\d+)\.")
_KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups, c: torch.optim.AdamW(groups, c.learning_rate, c.betas, c.eps, fused=True),
    "adam": lambda groups, c: torch.optim.Adam(groups, c.learning_rate, c.betas, c.eps, fused=True),
    "adafactor": lambda groups, c: torch.optim.Adafactor(groups, c.learning_rate),
    "muon": lambda groups, c: Muon(groups, c.learning_rate, c.betas, c.eps),
    "sgd": lambda groups, c: torch.optim.SGD(groups, c.learning_rate, c.momentum),
}


def freeze(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Stop every parameter that matches a pattern from learning; returns their names.

    Raises ValueError for a pattern that matches none.
    """
    frozen = []
    named = dict(model.named_parameters())
    for pattern in patterns:
        names = [name for name in named if fnmatchcase(name, pattern)]
        if not names:
            known = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in named})
            raise ValueError(f"freeze is {pattern!r}; it matches no parameter; there are: {', '.join(known)}")
        for name in names:
            named[name].requires_grad_(False)
        frozen += names
    return frozen


def depths(model: nn.Module) -> dict[str, int]:
    """How many layers lie between each parameter and the head: 0 for the head, 1 for the last layer, ...

    The front-end lies below the first layer of its tower; encoders of an encoder-decoder count like the decoder.
    """
    found = [(name, _LAYER.search(name)) for name, _ in model.named_parameters()]
    last: dict[str, int] = {}
    for _, match in found:
        if match is not None:
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    depth = {}
    for name, match in found:
        tower = next((tower for tower in last if f"{tower}.front." in name), None)
        if match is not None:
            depth[name] = last[match[1]] - int(match[2]) + 1
        else:
            depth[name] = 0 if tower is None else last[tower] + 2
    return depth


def groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters that learn, by weight decay (matrices only) and by rate; `scale` is the group's share of the rate, and
    `orthogonal` says that Muon moves it (the matrices of layers, if Muon is asked for).
    """
    found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    depth = depths(model) if config.layer_decay < 1 else {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            scale = config.layer_decay ** depth.get(name, 0)
            orthogonal = config.name == "muon" and parameter.ndim == 2 and _LAYER.search(name) is not None
            found.setdefault((decay, scale, orthogonal), []).append(parameter)
    if not found:
        raise ValueError("no parameter learns: all of them are frozen")
    named = ("weight_decay", "scale", "orthogonal")
    return [{"params": parameters, **dict(zip(named, kind, strict=True))} for kind, parameters in found.items()]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser over `groups`. Raises ValueError if nothing learns."""
    return _KINDS[config.name](groups(model, config), config)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def unfreeze(model: nn.Module, step: int, every: int, frozen: frozenset[str]) -> None:
    """Gradual unfreezing (1801.06146): at step 0 the head learns, and a layer more after every `every` steps."""
    depth = depths(model)
    for name, parameter in model.named_parameters():
        if name not in frozen:
            parameter.requires_grad_(depth[name] <= step // every)
