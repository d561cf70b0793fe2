"""Adapters on disk: adapter_config.json and adapter_model.safetensors, as the peft library writes and reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from regard.adapt.adapters import adapters, biases, delete, known_adapters, parts_of, put, set_active
from regard.adapt.config import AdapterConfig, LoraConfig, PrefixTuningConfig, config_from
from regard.adapt.layers import Adapted, Trained
from regard.adapt.lora import Lora, sizes
from regard.adapt.prefix import Prefix
from regard.adapt.surgery import Site, is_table, names_on_disk
from regard.adapt.targets import Plan, disk_names, on_disk, parameters, plan
from regard.checkpoint.files import atomic, write_json
from regard.checkpoint.find import Folder, find
from regard.checkpoint.read import Weights, finite, open_file
from regard.models.model import Model

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_ROOTS = ("base_model.model.", "base_model.")


@dataclass
class Slot:
    """A tensor of an adapter's file: its shape there, and how to take it from the model and put it there."""

    shape: tuple[int, ...]
    take: Callable[[], Tensor]
    put: Callable[[Tensor], None] = field(repr=False)


def save_adapter(model: Model, folder: str | os.PathLike[str], name: str = "default") -> None:
    """Write one adapter into a folder; every file appears whole or not at all.

    Raises ValueError for an unknown name, and for a model whose adapters are merged.
    """
    record = adapters(model)
    known_adapters(record, [name])
    if record.merged:
        raise ValueError(f"adapters {', '.join(record.merged)} are merged into the weights; unmerge first")
    planned = record.plans[name]
    tensors = {key: slot.take().detach().clone().contiguous() for key, slot in slots(model, planned, name).items()}
    config = planned.config.replace(
        inference_mode=True, base_model_name_or_path=planned.config.base_model_name_or_path or model.name or None
    )
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with atomic(path / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(path / CONFIG, config.to_dict())


def read_config(
    ref: str | os.PathLike[str], *, revision: str | None = None, offline: bool | None = None
) -> AdapterConfig:
    """The config of an adapter: a folder, or a hub id. Raises ValueError for a folder that holds none."""
    return _config(find(ref, revision=revision, offline=offline))


def load_adapter(
    model: Model,
    ref: str | os.PathLike[str],
    name: str = "default",
    *,
    trainable: bool = False,
    revision: str | None = None,
    offline: bool | None = None,
) -> None:
    """Put an adapter from a folder or the hub on a model, in place; the first one becomes active.

    Raises one ValueError with all problems of its files, and leaves the model as it was.
    """
    folder = find(ref, revision=revision, offline=offline)
    config = _config(folder)
    try:
        planned = plan(model, config.replace(inference_mode=not trainable))
    except ValueError as error:
        raise ValueError(f"{folder.path / CONFIG} does not fit the model: {error}") from None
    path = folder.file(WEIGHTS) or folder.file(PICKLED)
    if path is None:
        raise ValueError(f"{folder.path} has neither {WEIGHTS} nor {PICKLED}; it holds {folder.listing()}")
    with open_file(path) as weights:
        found = _matched(model, planned, weights)
        before = adapters(model).active
        put(model, planned, name, flat=True)
        try:
            with torch.no_grad():
                wanted = slots(model, planned, name)
                for key, other in found.items():
                    wanted[key].put(weights.load(other))
        except BaseException:
            delete(model, name)
            raise
    set_active(model, before or (name,), train=trainable)


def _config(folder: Folder) -> AdapterConfig:
    raw = folder.json(CONFIG)
    if raw is None:
        raise ValueError(f"{folder.path} has no {CONFIG}; it holds {folder.listing()}")
    return config_from(raw, str(folder.path / CONFIG))


def _matched(model: Model, planned: Plan, weights: Weights) -> dict[str, str]:
    """Our key for each tensor that is needed -> its key in the file. Raises one ValueError with every problem."""
    wanted = shapes(model, planned)
    base = _base_weights(model, planned)
    problems: list[str] = []
    found: dict[str, str] = {}
    for key in weights.keys():  # noqa: SIM118  the order of the file
        name = _spelled(key, wanted, base)
        shape = tuple(weights.shape(key))
        if name is None and _copied(key, wanted):
            continue
        if name is None:
            problems.append(f"{key} {shape}: nothing reads it")
        elif name in base:
            same = base[name].shape == shape and torch.equal(base[name].float(), weights.load(key).float())
            if not same:
                problems.append(f"{key} {shape}: it is not the weight of this model; the adapter is of another one")
        elif name in found:
            problems.append(f"{key}: it is there twice, also as {found[name]}")
        elif shape != wanted[name]:
            problems.append(f"{key} has shape {shape}, but the model and {CONFIG} make it {wanted[name]}")
        elif not weights.dtype(key).is_floating_point or not finite(weights.load(key)):
            problems.append(f"{key} is no tensor of finite floating-point numbers")
        else:
            found[name] = key
    refused = {name for name in wanted if any(name in problem for problem in problems)}
    problems += [f"{name} {wanted[name]} is missing" for name in wanted if name not in found and name not in refused]
    file = weights.file(weights.keys()[0]) if len(weights) else "the file"
    if problems:
        more = [f"... and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise ValueError(f"{file} does not fit the model:\n  " + "\n  ".join([*problems[:20], *more]))
    return found


def _spelled(key: str, wanted: Mapping[str, object], base: Mapping[str, object]) -> str | None:
    """A key of a file as we write it: other roots, endings and prefixes of a backbone are understood."""
    if key in wanted or key in base:
        return key
    key = key.removesuffix(".weight") if key.endswith("lora_magnitude_vector.weight") else key
    bare = key
    for root in _ROOTS:
        if bare.startswith(root):
            bare = bare.removeprefix(root)
            break
    tries = [bare]
    parts = bare.split(".")
    tries += [".".join(parts[i:]) for i in range(1, min(3, len(parts)))]
    for name in tries:
        ends = [other for other in (*wanted, *base) if other.endswith("." + name) or other == name]
        if len(ends) == 1:
            return ends[0]
    return None


def _copied(key: str, wanted: Mapping[str, object]) -> bool:
    """Whether a key only repeats a module that is trained whole, as peft writes along with all biases."""
    module, _, last = key.rpartition(".")
    outer, _, inner = module.rpartition(".")
    return inner in ("modules_to_save", "original_module") and f"{outer}.{last}" in wanted


# -------------------------------------------------------------------------------------------------- what is in a file


def shapes(model: Model, planned: Plan) -> dict[str, tuple[int, ...]]:
    """The tensors of an adapter's file and their shapes, known before anything is allocated."""
    config = planned.config
    found: dict[str, tuple[int, ...]] = {}
    for site in planned.sites:
        root = f"{_ROOTS[0]}{site.disk}."
        bases = [_bare(model, ours) for ours in site.ours]
        width, outputs = sizes(bases)
        if isinstance(config, LoraConfig):
            a, b = _names(is_table(bases[0]))
            r = config.rank(site.disk)
            found |= {root + a: (r, width), root + b: (sum(outputs), r)}
            if config.use_dora:
                found[root + "lora_magnitude_vector"] = (sum(outputs),)
        else:
            found[root + "ia3_l"] = (1, width) if site in planned.inputs else (sum(outputs), 1)
    if isinstance(config, PrefixTuningConfig):
        assert config.num_layers is not None and config.token_dim is not None
        found["prompt_embeddings"] = (config.num_virtual_tokens, config.num_layers * 2 * config.token_dim)
    found |= {key: tuple(slot.shape) for key, slot in _whole(model, planned, None).items()}
    return found


def slots(model: Model, planned: Plan, name: str) -> dict[str, Slot]:
    """The same tensors, with ways to and from an adapter that is on the model."""
    wanted = shapes(model, planned)
    found: dict[str, Slot] = {}
    for site in planned.sites:
        root = f"{_ROOTS[0]}{site.disk}."
        parts = parts_of(model, site, name)
        if isinstance(planned.config, LoraConfig):
            a, b = _names(isinstance(parts[0], Lora) and is_table(_bare(model, site.ours[0])))
            found[root + a] = _slot([parts[0].a], wanted[root + a], None)
            found[root + b] = _slot([part.b for part in parts], wanted[root + b], site)
            if planned.config.use_dora:
                key = root + "lora_magnitude_vector"
                found[key] = _slot([part.magnitude for part in parts], wanted[key], site)
        else:
            inputs = site in planned.inputs
            factors = [part.factor for part in (parts[:1] if inputs else parts)]
            found[root + "ia3_l"] = _slot(factors, wanted[root + "ia3_l"], None if inputs else site)
    if isinstance(planned.config, PrefixTuningConfig):
        prefix = model.prefixes.adapters[name]  # type: ignore[union-attr, index]
        assert isinstance(prefix, Prefix)
        table = prefix.table
        found["prompt_embeddings"] = Slot(wanted["prompt_embeddings"], prefix.flat, lambda x: _fill([table], x, None))
    return found | _whole(model, planned, name)


def _slot(parts: list[nn.Parameter], shape: tuple[int, ...], site: Site | None) -> Slot:
    def take() -> Tensor:
        return (parts[0] if site is None else site.join(parts)).reshape(shape)

    return Slot(shape, take, lambda x: _fill(parts, x, site))


def _fill(parts: list[nn.Parameter], x: Tensor, site: Site | None) -> None:
    flat = x.reshape(-1) if parts[0].ndim == 1 else x
    for part, value in zip(parts, [flat] if site is None else site.split(flat), strict=True):
        part.data.copy_(value)


def _names(table: bool) -> tuple[str, str]:
    return ("lora_embedding_A", "lora_embedding_B") if table else ("lora_A.weight", "lora_B.weight")


def _bare(model: Model, ours: str) -> nn.Module:
    module = model.get_submodule(ours)
    return module.base if isinstance(module, Adapted) else module


def _whole(model: Model, planned: Plan, name: str | None) -> dict[str, Slot]:
    """What is trained whole: copies of modules (of `name`, or of the modules before there are any), and biases."""
    root = _ROOTS[1] if isinstance(planned.config, PrefixTuningConfig) else _ROOTS[0]
    state: dict[str, nn.Parameter] = {}
    for ours in planned.saved:
        module = model.get_submodule(ours)
        source = module if not isinstance(module, Trained) else module.base if name is None else module.copies[name]
        state |= {f"{ours}.{key}": value for key, value in source.named_parameters()}
    found = _slots_on_disk(model, state, root)
    disk_of = {site.disk for site in planned.sites}
    trained = _slots_on_disk(model, _with_rule(model, dict(biases(model, planned))), root)
    for key, slot in trained.items():
        module_name = key.removeprefix(root).removesuffix(".bias")
        found[f"{root}{module_name}.base_layer.bias" if module_name in disk_of else key] = slot
    return found


def _with_rule(model: Model, state: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    named = disk_names(model)
    return {key: value for key, value in state.items() if key in named}


def _slots_on_disk(model: Model, state: dict[str, nn.Parameter], root: str) -> dict[str, Slot]:
    """Slots for parameters of ours, under the names and in the layout that they have on disk."""
    known = names_on_disk(model)
    found: dict[str, Slot] = {}
    for key, tensor in on_disk(model, {ours: p.detach() for ours, p in state.items()}).items():

        def take(key: str = key) -> Tensor:
            return on_disk(model, {ours: p.detach() for ours, p in state.items()})[key]

        def fill(x: Tensor, key: str = key) -> None:
            if known is None:
                state[key].data.copy_(x)
                return
            match = known[0].match(key)
            assert match is not None
            parts = [x]
            for op in match.rule.ops:
                parts = op.read(parts)
            for ours, part in zip(match.targets, parts, strict=True):
                state[ours].data.copy_(part)

        found[root + key] = Slot(tuple(tensor.shape), take, fill)
    return found


def _base_weights(model: Model, planned: Plan) -> dict[str, Tensor]:
    """Weights of the model that files of some adapters hold too (tables that are adapted)."""
    own = dict(parameters(model))
    found: dict[str, Tensor] = {}
    for site in planned.sites:
        key = f"{site.ours[0]}.weight"
        if len(site.ours) == 1 and key in own and is_table(_bare(model, site.ours[0])):
            found[f"{_ROOTS[0]}{site.disk}.base_layer.weight"] = own[key].detach()
    return found
