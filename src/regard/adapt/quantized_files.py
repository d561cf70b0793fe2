"""Quantized models in files: config.json says how, and safetensors hold what the layers keep, under our own names.

The other library cannot open such a folder: its names and layouts are of no use for weights of int8 and int4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard.adapt.quantize import layers, put
from regard.adapt.quantized import KINDS, Quantized
from regard.checkpoint.find import Folder
from regard.checkpoint.load import describe
from regard.checkpoint.memory import give_back, on_meta
from regard.checkpoint.read import Weights, finite, open_weights
from regard.models.base import Raw
from regard.models.model import Model, build_model
from regard.models.registry import family_of, head_of
from regard.nn import FeaturesHead

FIELD, METHOD = "quantization_config", "regard"
_MOST = 2**16


def said(model: Model) -> dict[str, Any] | None:
    """What config.json says of a model's quantization; None of a model that has none."""
    names = {name: layer.precision for name, layer in layers(model)}
    if not names:
        return None
    (precision,) = set(names.values())
    return {"quant_method": METHOD, "precision": precision, "modules": list(names)}


def kept(model: Model) -> dict[str, Tensor]:
    """The tensors of a quantized model by our names, tied ones once."""
    aliases = {name for name, _ in model.config.tied}
    named = model.named_parameters(remove_duplicate=False)
    found = {name: p.detach().contiguous() for name, p in named if name not in aliases}
    for name, layer in layers(model):
        if isinstance(layer, Quantized):
            found[f"{name}.weight"], found[f"{name}.scale"] = layer.weight, layer.scale
    return found


def load_quantized(folder: Folder, raw: dict[str, Any], head: str | None, device: torch.device) -> Model:
    """Open a folder that holds a quantized model; weights stay mapped from the file until they are used.

    Raises ValueError naming every problem at once, and for another head than was saved ("features" is in all).
    """
    where = str(folder.path / "config.json")
    precision, names = _read_field(Raw(raw, where))
    raw = {key: value for key, value in raw.items() if key != FIELD}
    family = family_of(raw, where)
    kind, saved = head_of(family, raw, head, where), head_of(family, raw, None, where)
    if kind not in (saved, "features"):
        raise ValueError(f"head is {head!r}; {folder.path} is quantized with its {saved} head and has no other")
    with on_meta():
        model = build_model(family.config(Raw(raw, where), kind))
        _make_room(model, precision, [n for n in names if kind == saved or not n.startswith("head.")], where)
    with open_weights(folder) as weights:
        problems = _fill(model, weights, lenient=kind != saved)
    if problems:
        raise ValueError("the weights do not fit the config:\n  " + "\n  ".join(problems[:20]))
    model.tie()
    describe(model, family, kind, raw, folder)
    return model.to(device).eval() if device.type != "cpu" else model.eval()


def _read_field(raw: Raw) -> tuple[str, list[str]]:
    said = raw.sub(FIELD)
    precision = said.one_of("precision", tuple(KINDS))
    names = said.items("modules")
    if len(names) > _MOST or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{said.where}: modules has {len(names)} entries; allowed: at most {_MOST} names")
    return precision, list(dict.fromkeys(names))


def _make_room(model: Model, precision: str, names: list[str], where: str) -> None:
    known = dict(model.named_modules())
    for name in names:
        linear = known.get(name)
        if not isinstance(linear, nn.Linear):
            what = "is no module" if linear is None else f"is a {type(linear).__name__}"
            raise ValueError(f"{where}: {FIELD}: modules names {name[:80]!r}, which {what}; allowed: linear layers")
        put(model, name, KINDS[precision].empty(linear))


def _fill(model: Model, weights: Weights, *, lenient: bool) -> list[str]:
    wanted = kept(model)
    problems = []
    if isinstance(model.head, FeaturesHead) and not any(key.startswith("head.") for key in weights):
        model.head.pooler = None  # an encoder saved without its pooler has none
        wanted = kept(model)
    for key in weights:
        if key not in wanted and not (lenient and key.startswith("head.")):
            problems.append(f"{weights.file(key)}: {key}: this model has no such tensor")
    for name, empty in wanted.items():
        if name not in weights:
            if lenient and name.startswith("head.") and isinstance(model.head, FeaturesHead):
                model.head.pooler = None
            else:
                problems.append(f"nothing fills {name} {tuple(empty.shape)}")
            continue
        shape, kind = weights.shape(name), weights.dtype(name)
        half = kind == torch.bfloat16 and empty.dtype == torch.float32  # what is no linear may be kept in half
        if shape != tuple(empty.shape) or (kind != empty.dtype and not half):
            problems.append(
                f"{weights.file(name)}: {name} is {kind} {shape}, but must be {empty.dtype} {tuple(empty.shape)}"
            )
            continue
        tensor = weights.load(name)
        if not finite(tensor):
            problems.append(f"{weights.file(name)}: {name} holds NaN or infinity")
        if weights.mapped(name):
            give_back(tensor)  # tables of vectors are looked at in a few places only
        _set(model, name, tensor.float() if half else tensor, mapped=weights.mapped(name))
    return problems


def _set(model: Model, name: str, tensor: Tensor, *, mapped: bool) -> None:
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, Quantized) and last == "weight":
        module.kept, module.mapped = tensor, mapped
    elif isinstance(module, Quantized) and last == "scale":
        module.scale = tensor
    else:
        old = getattr(module, last)
        setattr(module, last, nn.Parameter(tensor, requires_grad=old.requires_grad))
