"""Adapters of a model: put on, switched, mixed, merged into the weights, taken off again."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regard.adapt import ia3, lora
from regard.adapt.config import AdapterConfig, IA3Config, LoraConfig, PrefixTuningConfig
from regard.adapt.layers import Adapted, Adapter, Trained
from regard.adapt.prefix import Prefix, Prefixes, tower_of
from regard.adapt.surgery import Site, float_weight, modules, replace, restore
from regard.adapt.targets import Plan, parameters, plan
from regard.models.model import Model


@dataclass
class Adapters:
    """What is known of a model's adapters. `learned`: the parameters that were trainable before; `biases`: as they were
    before an adapter that trains them.
    """

    plans: dict[str, Plan] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    learned: frozenset[str] = frozenset()
    biases: dict[str, Tensor] = field(default_factory=dict)
    hook: Any = None


def adapters(model: Model) -> Adapters:
    """The record of a model's adapters; an empty one if it has none."""
    return model.__dict__.get("_adapters") or Adapters()


def add(model: Model, config: AdapterConfig, name: str = "default") -> None:
    """Put a new adapter on a model, in place; all but adapters is frozen, and the first one becomes active.

    Raises ValueError for a name that is taken, another kind of adapter than is there, and patterns that fit nothing.
    """
    put(model, plan(model, config), name)


def put(model: Model, planned: Plan, name: str, *, flat: bool = False) -> None:
    """`add` for a plan that was made; `flat` prefixes come from a file and have no projection."""
    record = adapters(model)
    _check(record, planned.config, name)
    if record.merged:
        raise ValueError(f"adapters {', '.join(record.merged)} are merged into the weights; unmerge first")
    if not record.plans:
        record.learned = frozenset(key for key, p in parameters(model) if p.requires_grad)
        record.biases = {}
    made = {site: _made(model, planned, site) for site in planned.sites}
    model.__dict__["_adapters"] = record
    for site, parts in made.items():
        for ours, part in zip(site.ours, parts, strict=True):
            module = model.get_submodule(ours)
            if not isinstance(module, Adapted):
                module = Adapted(module)
                replace(model, ours, module)
            module.adapters[name] = part.train(module.base.training)
            module.training, module.adapters.training = module.base.training, module.base.training
            module.active = record.active
    for ours in planned.saved:
        _copy(model, ours, name, record)
    if isinstance(planned.config, PrefixTuningConfig):
        _begin_with(model, planned.config, name, record, flat)
    record.plans[name] = planned
    if getattr(planned.config, "bias", "none") != "none":
        record.biases = {key: p.detach().clone() for key, p in biases(model, planned)}
    set_active(model, record.active or (name,))


def _check(record: Adapters, config: AdapterConfig, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", name) or hasattr(nn.ModuleDict, name):
        raise ValueError(f"an adapter's name is {name!r:.80}; allowed: letters, digits, _ and -, no word of Python's")
    if name in record.plans:
        raise ValueError(f"there is an adapter {name!r} already; delete it first, or take another name")
    for other, planned in record.plans.items():
        if planned.config.peft_type != config.peft_type:
            raise ValueError(
                f"adapter {other!r} is of kind {planned.config.peft_type}; no {config.peft_type} goes beside it"
            )
        if "none" not in (getattr(planned.config, "bias", "none"), getattr(config, "bias", "none")):
            raise ValueError(f"adapter {other!r} trains biases (bias={planned.config.bias!r}); only one adapter can")  # type: ignore[attr-defined]


def _made(model: Model, planned: Plan, site: Site) -> list[Adapter]:
    bases = [_base(model.get_submodule(ours)) for ours in site.ours]
    if isinstance(planned.config, LoraConfig):
        return lora.make(planned.config, site, bases)
    assert isinstance(planned.config, IA3Config)
    return ia3.make(planned.config, site, bases, site in planned.inputs)


def _base(module: nn.Module) -> nn.Module:
    if isinstance(module, Trained):
        raise ValueError("a module cannot be adapted by one adapter and trained whole by another")
    return module.base if isinstance(module, Adapted) else module


def _copy(model: Model, ours: str, name: str, record: Adapters) -> None:
    module = model.get_submodule(ours)
    if isinstance(module, Adapted):
        raise ValueError(f"{ours} is adapted by another adapter; it cannot be trained whole beside that")
    if not isinstance(module, Trained):
        module = Trained(module)
        module.training = module.base.training
        replace(model, ours, module)
    module.add(name)
    module.active = record.active


def _begin_with(model: Model, config: PrefixTuningConfig, name: str, record: Adapters, flat: bool) -> None:
    tower = tower_of(model)
    if record.hook is None:
        model.prefixes = Prefixes()
        record.hook = tower.register_forward_pre_hook(model.prefixes.begin, with_kwargs=True)
    assert isinstance(model.prefixes, Prefixes)
    model.prefixes.adapters[name] = Prefix(config, flat=flat).to(model.device).train(model.training)


def holders(model: Model) -> Iterator[Adapted | Trained | Prefixes]:
    """Everything that holds adapters, or copies, by name."""
    for _, module in modules(model):
        if isinstance(module, (Adapted, Trained, Prefixes)):
            yield module


def held(holder: Adapted | Trained | Prefixes) -> nn.ModuleDict:
    """What a holder holds, by adapter's name."""
    return holder.copies if isinstance(holder, Trained) else holder.adapters


def set_active(model: Model, names: str | Sequence[str], *, train: bool = True) -> None:
    """Let these adapters work, in this order, and no others; only they are trainable, and with `train=False` none.

    Raises ValueError for an unknown name, and for adapters that cannot work together.
    """
    record, names = adapters(model), (names,) if isinstance(names, str) else tuple(names)
    known_adapters(record, names)
    if record.merged:
        raise ValueError(f"adapters {', '.join(record.merged)} are merged into the weights; unmerge first")
    twice = [ours for a, b in itertools.combinations(names, 2) for ours in _common(record, a, b)]
    if twice:
        raise ValueError(f"adapters {', '.join(names)} both bring their own {twice[0]}; only one of them can be active")
    if len(names) > 1 and any(isinstance(record.plans[name].config, PrefixTuningConfig) for name in names):
        raise ValueError(f"only one prefix can be active, not {', '.join(names)}")
    record.active = names
    for parameter in model.parameters():
        parameter.requires_grad = False
    for holder in holders(model):
        holder.active = names
        for name in names:
            if train and name in held(holder):
                held(holder)[name].requires_grad_(True)
    for name in names if train else ():
        for _, bias in biases(model, record.plans[name]):
            bias.requires_grad = True


def _common(record: Adapters, a: str, b: str) -> list[str]:
    return sorted(set(record.plans[a].saved) & set(record.plans[b].saved))


def known_adapters(record: Adapters, names: Sequence[str]) -> None:
    """Raise a ValueError listing what there is unless there are adapters of all these names."""
    for name in names:
        if name not in record.plans:
            raise ValueError(f"there is no adapter {name!r}; there are {', '.join(record.plans) or 'none'}")


def biases(model: Model, planned: Plan) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's biases that an adapter trains, by our names before surgery."""
    kind = getattr(planned.config, "bias", "none")
    if kind == "none":
        return
    adapted = {f"{ours}.bias" for site in planned.sites for ours in site.ours}
    whole = {f"{ours}.bias" for ours in planned.saved}
    for key, parameter in parameters(model):
        if key.endswith(".bias") and key not in whole and (kind == "all" or key in adapted):
            yield key, parameter


@contextlib.contextmanager
def disabled(model: Model) -> Iterator[None]:
    """The model as it was before any adapter, within the block. Raises ValueError while adapters are merged."""
    record = adapters(model)
    if record.merged:
        raise ValueError(f"adapters {', '.join(record.merged)} are merged into the weights; unmerge first")
    own = dict(parameters(model))
    changed = {key: own[key].data for key in record.biases}
    for holder in holders(model):
        holder.active = ()
    for key, value in record.biases.items():
        own[key].data = value
    try:
        yield
    finally:
        for holder in holders(model):
            holder.active = record.active
        for key, value in changed.items():
            own[key].data = value


def delete(model: Model, name: str) -> None:
    """Take an adapter off; with the last one the model is as it was before. Raises ValueError for an unknown name."""
    record = adapters(model)
    known_adapters(record, [name])
    if record.merged:
        raise ValueError(f"adapters {', '.join(record.merged)} are merged into the weights; unmerge first")
    if len(record.plans) == 1:
        unload(model)
        return
    if getattr(record.plans[name].config, "bias", "none") != "none":
        own = dict(parameters(model))
        for key, value in record.biases.items():
            own[key].data.copy_(value)
        record.biases = {}
    del record.plans[name]
    for key, module in list(modules(model)):
        if isinstance(module, (Adapted, Trained, Prefixes)) and name in held(module):
            del held(module)[name]
            if isinstance(module, (Adapted, Trained)) and not held(module):
                replace(model, key, module.base)
    left = tuple(other for other in record.active if other != name)
    set_active(model, left or (next(iter(record.plans)),))


def merge(model: Model) -> None:
    """Put what the active adapters do into the weights, which costs nothing when running; `unmerge` takes it out.

    Raises ValueError, before anything is changed, for prefixes, for weights that are no floating-point numbers, and for
    weights that are tied to others.
    """
    record = adapters(model)
    if record.merged or not record.active:
        raise ValueError(
            "the adapters are merged already" if record.merged else "the model has no active adapter to merge"
        )
    if any(isinstance(record.plans[name].config, PrefixTuningConfig) for name in record.active):
        raise ValueError("a prefix is no change of weights and cannot be merged; keep it with save_adapter")
    uses: dict[int, list[str]] = {}
    for key, parameter in parameters(model):
        uses.setdefault(id(parameter), []).append(key)
    found = [(key, m) for key, m in modules(model) if isinstance(m, (Adapted, Trained))]
    working = [(key, m) for key, m in found if any(name in held(m) for name in record.active)]
    for key, module in working:
        weight = float_weight(module.base, "merging", key) if isinstance(module, Adapted) else module.base.weight
        tied = [other for other in uses.get(id(weight), []) if other != f"{key}.weight"]
        if tied:
            raise ValueError(f"{key}.weight is also {tied[0]}: merging would change both; keep the adapter in a file")
    for _, module in working:
        if isinstance(module, Adapted):
            module.merge()
    record.merged = record.active


def unmerge(model: Model) -> None:
    """Give the weights back as they were before `merge`, bit by bit."""
    for holder in holders(model):
        if isinstance(holder, Adapted):
            holder.unmerge()
    adapters(model).merged = ()


def unload(model: Model) -> None:
    """Take all adapters off. What was merged stays in the weights, trained heads and biases too; else nothing does."""
    record = adapters(model)
    own = dict(parameters(model))
    if not record.merged:
        for key, value in record.biases.items():
            own[key].data.copy_(value)
    for key, module in list(modules(model)):
        if record.merged and isinstance(module, Trained):
            replace(model, key, module.worker)
    restore(model)
    if record.hook is not None:
        record.hook.remove()
        del model.prefixes
    for key, parameter in parameters(model):
        parameter.requires_grad = key in record.learned
    model.__dict__.pop("_adapters", None)


def trainable(model: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are in all."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, learns in sizes if learns), sum(n for n, _ in sizes)


def combine(
    model: Model, weights: Mapping[str, float], name: str, *, how: str = "cat", rank: int | None = None
) -> None:
    """A new LoRA adapter that does what a weighted sum of others does; it is not made active.

    "cat" is exact, its rank the sum of theirs; "svd" is the best approximation of `rank`, by default the largest of
    theirs. Raises ValueError for DoRA, whose changes do not add up, and for other kinds of adapters.
    """
    record = adapters(model)
    known_adapters(record, list(weights))
    configs = {key: record.plans[key].config for key in weights}
    if how not in ("cat", "svd"):
        raise ValueError(f"how is {how!r}; allowed: cat, svd")
    first = next(iter(configs.values()), None)
    for key, config in configs.items():
        if not isinstance(config, LoraConfig) or config.use_dora or config.bias != "none":
            raise ValueError(f"adapter {key!r} cannot be combined: only plain LoRA adapters can")
    if not isinstance(first, LoraConfig):
        raise ValueError("weights is empty; allowed: names of adapters and a number for each")
    spots = dict.fromkeys(site for key in weights for site in record.plans[key].sites)
    ranks = {key: max(c.rank(s.disk) for s in record.plans[key].sites) for key, c in configs.items()}  # type: ignore[attr-defined]
    r = rank or (sum(ranks.values()) if how == "cat" else max(ranks.values()))
    targets = tuple(site.disk for site in spots)
    new: LoraConfig = first.replace(
        r=r, lora_alpha=r, use_rslora=False, rank_pattern={}, alpha_pattern={}, target_modules=targets,
        exclude_modules=None, layers_to_transform=None, layers_pattern=None, modules_to_save=None, task_type=None,
    )  # fmt: skip
    put(model, Plan(new, tuple(spots)), name)
    for site in spots:
        _sum(model, site, weights, name, how)


def parts_of(model: Model, site: Site, name: str) -> list[Any]:
    """An adapter's parts on a site, in the order of its modules; none if it is not there."""
    found = [model.get_submodule(ours) for ours in site.ours]
    return [m.adapters[name] for m in found if isinstance(m, Adapted) and name in m.adapters]


@torch.no_grad()
def _sum(model: Model, site: Site, weights: Mapping[str, float], name: str, how: str) -> None:
    mine = parts_of(model, site, name)
    others = [(parts_of(model, site, key), w) for key, w in weights.items()]
    there = [(parts, w) for parts, w in others if parts]
    a = torch.cat([parts[0].a * w * parts[0].scaling for parts, w in there])
    b = torch.cat([site.join([part.b for part in parts]) for parts, _ in there], 1)
    r = mine[0].a.shape[0]
    if how == "svd" and a.shape[0] > r:
        u, s, v = torch.linalg.svd(b @ a, full_matrices=False)
        b, a = u[:, :r] * s[:r].sqrt(), s[:r].sqrt()[:, None] * v[:r]
    mine[0].a.zero_()[: a.shape[0]] = a
    for part, rows in zip(mine, site.split(b), strict=True):
        part.b.zero_()[:, : b.shape[1]] = rows
