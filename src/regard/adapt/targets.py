"""Which modules a config means, in a model: where adapters go, and what is trained whole beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from regard.adapt.config import AdapterConfig, IA3Config, LoraConfig, PrefixTuningConfig, TargetConfig, TaskType
from regard.adapt.layers import Adapted, Trained
from regard.adapt.prefix import completed
from regard.adapt.surgery import Site, filled, find, is_linear, modules, names_on_disk, nearest, sites
from regard.checkpoint.rules import written
from regard.models.base import Transpose
from regard.models.model import Model
from regard.nn import Attention, FeedForward

_HEADS: dict[TaskType, tuple[str, ...]] = {
    TaskType.SEQ_CLS: ("classifier", "score"),
    TaskType.TOKEN_CLS: ("classifier", "score"),
    TaskType.QUESTION_ANS: ("qa_outputs",),
}
"""What is trained whole for a task, by its name in checkpoints."""


@dataclass(frozen=True)
class Plan:
    """A config, with what it leaves open filled in, and what it means: sites, those among them whose input is scaled
    (IA3), and the names of our modules that are trained whole.
    """

    config: AdapterConfig
    sites: tuple[Site, ...] = ()
    inputs: frozenset[Site] = field(default_factory=frozenset)
    saved: tuple[str, ...] = ()


def plan(model: Model, config: AdapterConfig) -> Plan:
    """What a config means for a model. Raises ValueError naming a pattern that fits nothing, with the nearest names."""
    config, saved = _with_heads(model, config)
    if isinstance(config, PrefixTuningConfig):
        return Plan(completed(model, config), saved=saved)
    assert isinstance(config, TargetConfig)
    default: list[Site] | None = None
    if config.target_modules is None:
        chosen = default = _usual(model, config)
    elif isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
        chosen = default = _all_linear(model)
    else:
        chosen = find(model, config.target_modules)  # type: ignore[arg-type]
    out = set() if config.exclude_modules is None else set(find(model, config.exclude_modules, "exclude_modules"))  # type: ignore[arg-type]
    kept = [s for s in chosen if s not in out and not set(s.ours) & set(saved)]
    if isinstance(config, LoraConfig):
        kept = [site for site in kept if _in_layers(site.disk, config)]
    if not kept:
        raise ValueError("target_modules, exclude_modules, modules_to_save and layers_to_transform leave no module")
    names = _spelled(model, config, chosen, default is not None)
    config = replace(config, **names, fan_in_fan_out=_transposed(model, kept))  # type: ignore[arg-type]
    return Plan(config, tuple(kept), _inputs(model, config, kept), saved)


def _usual(model: Model, config: TargetConfig) -> list[Site]:
    """Queries and values of attention for LoRA; keys, values and the last linear of the feed-forward for IA3."""
    parts = ("k", "v") if isinstance(config, IA3Config) else ("q", "v")
    wanted = {f"{name}.{p}" for name, part in model.named_modules() if isinstance(part, Attention) for p in parts}
    if isinstance(config, IA3Config):
        wanted |= {f"{name}.down" for name, part in model.named_modules() if isinstance(part, FeedForward)}
    found = [site for site in sites(model) if wanted & set(site.ours)]
    if not found:
        raise ValueError("target_modules is None, and this model has no attention; name modules")
    return found


def _all_linear(model: Model) -> list[Site]:
    linear = {name for name, module in modules(model) if is_linear(module)}
    return [site for site in sites(model) if site.ours[0] in linear and site.ours[0] != "head.out"]


def _spelled(model: Model, config: TargetConfig, chosen: list[Site], default: bool) -> dict[str, object]:
    """Names as other libraries read them: the checkpoint's own, as short as they can be."""
    disk = {site.disk for site in chosen}
    endings = {name.rpartition(".")[2] for name in disk}
    changes: dict[str, object] = {}
    if default:
        everything = sites(model)
        short = all(site in chosen for site in everything if site.disk.rpartition(".")[2] in endings)
        changes["target_modules"] = tuple(sorted(endings if short else disk))
        if isinstance(config, IA3Config) and config.feedforward_modules is None:
            down = {f"{name}.down" for name, part in model.named_modules() if isinstance(part, FeedForward)}
            wide = {site.disk for site in chosen if down & set(site.ours)}
            changes["feedforward_modules"] = tuple(sorted({n.rpartition(".")[2] for n in wide} if short else wide))
        return changes
    whole = isinstance(config.target_modules, str)
    patterns: list[str] = [config.target_modules] if whole else list(config.target_modules or ())  # type: ignore[list-item]
    of_disk = {name for name in disk if any(_fits_disk(p, name, whole) for p in patterns)}
    if of_disk != disk or (not whole and any(set(p) & set("*?[") for p in patterns)):
        changes["target_modules"] = tuple(sorted(disk))
    return changes


def _fits_disk(pattern: str, name: str, whole: bool) -> bool:
    if whole:
        return re.fullmatch(pattern, name) is not None
    return name == pattern or name.endswith("." + pattern)


def _inputs(model: Model, config: TargetConfig, kept: Sequence[Site]) -> frozenset[Site]:
    if not isinstance(config, IA3Config) or not config.feedforward_modules:
        return frozenset()
    found = find(model, config.feedforward_modules, "feedforward_modules")  # type: ignore[arg-type]
    if not isinstance(config.feedforward_modules, str):  # endings need not begin at a dot here
        found += [s for s in kept if any(s.disk.endswith(name) for name in config.feedforward_modules)]
    return frozenset(site for site in kept if site in found)


def _transposed(model: Model, kept: Sequence[Site]) -> bool:

    linear = [site for site in kept if is_linear(model.get_submodule(site.ours[0]))]
    return bool(linear) and all(any(isinstance(op, Transpose) for op in site.ops) for site in linear)


def _in_layers(name: str, config: LoraConfig) -> bool:
    wanted = config.layers_to_transform
    if wanted is None or wanted == () or isinstance(config.target_modules, str):
        return True
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
    tries = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in patterns] if patterns else [r".*?\.[^.]*\.(\d+)\."]
    found = next((m for m in (re.match(pattern, name) for pattern in tries) if m is not None), None)
    return found is not None and int(found[1]) in ((wanted,) if isinstance(wanted, int) else wanted)


# ------------------------------------------------------------------------------------------- what is trained whole


def _with_heads(model: Model, config: AdapterConfig) -> tuple[AdapterConfig, tuple[str, ...]]:
    """The config with the task's head among its `modules_to_save`, and our names of all that these mean."""
    named = tuple(config.modules_to_save or ())
    usual = _HEADS.get(config.task_type, ())  # type: ignore[call-overload]
    known = leaves(model)
    found: dict[str, None] = {}
    for name in dict.fromkeys((*named, *usual)):
        fit = [ours for ours, disks in known.items() if any(_above(name, n) for n in (ours, *disks))]
        if not fit and name not in usual:
            near = nearest(name, [n for ours, disks in known.items() for n in (ours, *disks)])
            raise ValueError(f"modules_to_save: no module's name fits {name!r}; near: {', '.join(near)}")
        found.update(dict.fromkeys(fit))
    if not found and not set(usual) <= set(named):  # a file that names them means what it says
        head = [ours for ours in known if ours.startswith("head.")]
        found.update(dict.fromkeys(head))
        usual = tuple(dict.fromkeys(disk for ours in head for disk in known[ours]))
    names = tuple(dict.fromkeys((*named, *usual)))
    return (config.replace(modules_to_save=names) if names else config), tuple(found)


def _above(name: str, leaf: str) -> bool:
    """Whether a module's name is that of a leaf, or of what holds it."""
    return f".{leaf}.".find(f".{name}.") >= 0


def leaves(model: Model) -> dict[str, tuple[str, ...]]:
    """Our modules that have parameters and no parts, each with its names on disk."""
    named = disk_names(model)
    found: dict[str, tuple[str, ...]] = {}
    for name, module in modules(model):
        base = module.base if isinstance(module, (Adapted, Trained)) else module
        own = [key for key, value in base.named_parameters(recurse=False) if value is not None]
        if own and not any(True for _ in base.children()):
            disks = [disk.rpartition(".")[0] for key in own for disk in named.get(f"{name}.{key}", ())]
            if disks:
                found[name] = tuple(dict.fromkeys(disks))
    return found


def disk_names(model: Model) -> dict[str, tuple[str, ...]]:
    """Each of our parameters, by its name before surgery, with its names on disk."""
    known = names_on_disk(model)
    keys = [key for key, _ in parameters(model)]
    if known is None:
        return {key: (key,) for key in keys}
    table, prefix = known
    found: dict[str, tuple[str, ...]] = {}
    for key in keys:
        match = table.writer(key)
        if match is not None:
            rule, captures, is_backbone = match
            disks = tuple((prefix if is_backbone else "") + filled(name, captures) for name in rule.disk_keys)
            found.update(dict.fromkeys((filled(ours, captures) for ours in rule.our_keys), disks))
    return found


def parameters(model: Model) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's own parameters by their names before surgery, tied ones under each name."""
    for name, module in modules(model):
        base = module.base if isinstance(module, (Adapted, Trained)) else module
        for key, value in base.named_parameters(recurse=False):
            yield f"{name}.{key}" if name else key, value


def on_disk(model: Model, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by our names -> by their names on disk, in the layout that they have there."""
    known = names_on_disk(model)
    return dict(state) if known is None else written(known[0], state, known[1])
