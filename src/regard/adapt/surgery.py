"""Module surgery by pattern: find modules by the names of a checkpoint or by ours, replace them, put them back.

A checkpoint may hold as one module what is several here (a fused q, k, v). A `Site` is a module as the checkpoint knows
it, with our modules that it is made of; adapters are put on sites, so that their files say the same to everyone.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.checkpoint.load import table_for
from regard.checkpoint.rules import Table
from regard.models.base import Op, Raw, Split, SplitHeads, Transpose
from regard.models.model import Model
from regard.models.registry import family_of

_BY_ROWS = (Split, SplitHeads)
"""What a fused module may be cut with so that each part is some of its rows."""


class Wrapped(nn.Module):
    """What surgery puts in a module's place: it is called like the module, `base`, which it holds."""

    unsaved_because = (
        "adapters are on it: keep them with regard.adapt.save_adapter, or put them into the weights for good with "
        "regard.adapt.merge and regard.adapt.unload first"
    )

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        """The base's own."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The base's own."""
        return getattr(self.base, "bias", None)


@dataclass(frozen=True)
class Site:
    """A module on disk and our modules in its place; `ops` lead from its weight to theirs."""

    disk: str
    ours: tuple[str, ...]
    ops: tuple[Op, ...] = ()

    def split(self, rows: Tensor) -> list[Tensor]:
        """What has one row for each output channel of the module on disk -> the same for each of ours."""
        parts = [rows]
        for op in self.ops:
            parts = op.read(parts) if isinstance(op, _BY_ROWS) else parts
        return parts

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""
        joined = list(parts)
        for op in reversed(self.ops):
            joined = op.write(joined) if isinstance(op, _BY_ROWS) else joined
        return joined[0]


def names_on_disk(model: Model) -> tuple[Table, str] | None:
    """The model's key rules and what precedes its backbone's keys on disk; None for a model built from bricks."""
    if not model.raw:
        return None
    family = family_of(model.raw)
    architecture = family.architectures[model.architecture]
    return table_for(family, Raw(model.raw), architecture.head), architecture.prefix


def modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by name as they were before any surgery: what is wrapped is not looked into."""
    hidden: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if hidden and name.startswith(hidden):
            continue
        if hasattr(module, "unsaved_because"):
            hidden = (*hidden, name + ".")
        yield name, module


def is_table(module: nn.Module) -> bool:
    """Whether a module is a table of vectors, wrapped or not."""
    return isinstance(module.base if isinstance(module, Wrapped) else module, nn.Embedding)


def is_linear(module: nn.Module) -> bool:
    """Whether a module, of any class and wrapped or not, maps `in_features` to `out_features`."""
    base = module.base if isinstance(module, Wrapped) else module
    return isinstance(getattr(base, "in_features", None), int) and isinstance(getattr(base, "out_features", None), int)


def sites(model: Model) -> list[Site]:
    """Every linear module and table of vectors that adapters can be put on."""
    known = names_on_disk(model)
    found = []
    present = {name for name, module in modules(model) if is_linear(module) or is_table(module)}
    for name in (name for name, _ in modules(model) if name in present):
        if known is None:
            found.append(Site(name, (name,)))
            continue
        site = _site(*known, name)
        if site is not None and present.issuperset(site.ours):
            found.append(site)
    return found


def _site(table: Table, prefix: str, name: str) -> Site | None:
    match = table.writer(name + ".weight")
    if match is None:
        return None
    rule, captures, is_backbone = match
    whole = len(rule.disk_keys) == 1 and all(isinstance(op, (*_BY_ROWS, Transpose)) for op in rule.ops)
    disk = (prefix if is_backbone else "") + filled(rule.disk_keys[0], captures)
    ours = [filled(key, captures) for key in rule.our_keys]
    if not whole or not all(key.endswith(".weight") for key in (disk, *ours)):
        return None
    return Site(disk.removesuffix(".weight"), tuple(key.removesuffix(".weight") for key in ours), rule.ops)


def filled(template: str, captures: Sequence[str]) -> str:
    """A rule's key with its wildcards filled in."""
    words = iter(captures)
    return re.sub(r"[*@]", lambda _: next(words), template)


def matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern, ends with it after a dot, or fits it as a glob."""
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, "*." + pattern)
    return name == pattern or name.endswith("." + pattern)


def find(model: Model, patterns: str | Sequence[str], field: str = "target_modules") -> list[Site]:
    """The sites that a regular expression fits, or any of several names, endings of names, or globs.

    Names of the checkpoint count first; a pattern that fits none of them is tried on ours, and must then fit all parts
    of a fused module. Raises ValueError naming the pattern and the nearest names where nothing fits.
    """
    everything = sites(model)
    taken: set[Site] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        whole = isinstance(patterns, str)
        found = {site for site in everything if _fits(pattern, site.disk, whole)}
        taken |= found or _by_our_names(pattern, everything, whole, patterns, field)
        if not found and not any(_fits(pattern, name, whole) for site in everything for name in site.ours):
            near = nearest(pattern, [name for site in everything for name in (site.disk, *site.ours)])
            raise ValueError(f"{field}: no module's name fits {pattern!r}; near: {', '.join(near)}")
    return [site for site in everything if site in taken]


def _by_our_names(
    pattern: str, everything: list[Site], whole: bool, patterns: str | Sequence[str], field: str
) -> set[Site]:
    found = [site for site in everything if any(_fits(pattern, name, whole) for name in site.ours)]
    others = [patterns] if isinstance(patterns, str) else patterns
    for site in found:
        left = [name for name in site.ours if not any(_fits(other, name, whole) for other in others)]
        if left:
            raise ValueError(
                f"{field}: {pattern!r} fits only a part of {site.disk}, which the checkpoint keeps as one module; "
                f"name {site.disk.rpartition('.')[2]!r}, or all of {', '.join(site.ours)}"
            )
    return set(found)


def _fits(pattern: str, name: str, whole: bool) -> bool:
    return re.fullmatch(pattern, name) is not None if whole else matches(pattern, name)


def nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """The endings of names that are most like a pattern, for error messages."""
    depth = pattern.count(".") + 1
    endings = dict.fromkeys(".".join(re.sub(r"\d+", "*", name).split(".")[-depth:]) for name in names)
    return difflib.get_close_matches(pattern, list(endings), 3, 0.3) or sorted(endings)[:8]


def replace(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of another; gives the other one."""
    parent, _, last = name.rpartition(".")
    holder = model.get_submodule(parent)
    old = holder.get_submodule(last)
    setattr(holder, last, module)
    return old


def restore(model: nn.Module) -> None:
    """Put every wrapped module back as it was before surgery."""
    for name, module in list(modules(model)):
        if isinstance(module, Wrapped):
            replace(model, name, module.base)


def float_weight(module: nn.Module, what: str, name: str) -> torch.nn.Parameter:
    """A module's weight. Raises ValueError saying what cannot be done unless it is a floating-point parameter."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        kind = f"{type(module).__name__} with {weight.dtype}" if isinstance(weight, Tensor) else type(module).__name__
        raise ValueError(
            f"{what} needs floating-point weights, but {name} is a {kind}; load the model without quantization"
        )
    return weight
