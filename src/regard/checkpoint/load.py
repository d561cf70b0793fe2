"""Weights on disk -> a model: every key accounted for, every parameter filled, all problems in one error."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regard.checkpoint.find import Folder, find
from regard.checkpoint.memory import check_fits, give_back, on_meta
from regard.checkpoint.read import Weights, finite, open_weights
from regard.checkpoint.rules import Pending, Table
from regard.memory import settled
from regard.models.base import Family, HeadKind, Raw
from regard.models.model import Model, build_model
from regard.models.registry import family_of, head_of, named
from regard.nn import FeaturesHead, build, initialise

log = logging.getLogger("regard")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    ref: str | os.PathLike[str],
    *,
    head: str | None = None,
    new_head: bool = True,
    num_labels: int | None = None,
    dtype: str | torch.dtype | None = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    offline: bool | None = None,
) -> Model:
    """Load a checkpoint: a folder, a hub id, or an embedded name such as "regard/shakespeare".

    `head` asks for another head than the checkpoint's ("features", "classification", ...); one that the file does not
    hold starts with new weights, and a warning says so; `new_head=False` makes that an error. `dtype="auto"` is
    float32 on a CPU (where half precision is slow) and the checkpoint's own elsewhere; None is its own anywhere. The
    model comes in evaluation mode.
    Raises ValueError naming every problem with the folder at once.
    """
    folder = find(ref, revision=revision, offline=offline)
    raw = folder.json("config.json")
    if raw is None:
        raise ValueError(f"{folder.path} has no config.json; it holds {folder.listing()}")
    if num_labels is not None:
        raw = {**raw, "num_labels": num_labels, "id2label": None, "label2id": None}
    where = str(folder.path / "config.json")
    target = torch.device(device)
    if isinstance(said := raw.get("quantization_config"), dict) and said.get("quant_method") == "regard":
        from regard.adapt.quantized_files import load_quantized

        return load_quantized(folder, raw, head, target)
    family = family_of(raw, where)
    kind = head_of(family, raw, head, where)
    with on_meta():
        model = build_model(family.config(Raw(raw, where), kind))
    with open_weights(folder) as weights:
        fill(model, family, raw, kind, weights, _dtype(dtype, target), target, new_head=new_head and head is not None)
    describe(model, family, kind, raw, folder)
    return model.eval()


def from_config(raw: dict[str, Any], *, head: str | None = None, seed: int | None = None) -> Model:
    """A new model from a config.json's content, its weights drawn as the family's paper says.

    Raises ValueError for fields that no such model has, and for a model larger than the memory that is free.
    """
    family = family_of(raw)
    kind = head_of(family, raw, head)
    config = family.config(Raw(raw), kind)
    if torch.get_default_device().type == "cpu":
        with on_meta():
            check_fits(build_model(config), torch.get_default_dtype().itemsize)
    model = build_model(config, seed=seed)
    model.raw, model.architecture = dict(raw), family.architecture_for(kind, named(raw))
    model.labels = Raw(raw).labels()
    return model


def describe(model: Model, family: Family, kind: HeadKind, raw: dict[str, Any], folder: Folder) -> None:
    """Put what came along with the weights on the model."""
    model.raw, model.name = raw, folder.name
    model.architecture = family.architecture_for(kind, named(raw))
    model.generation = folder.json("generation_config.json") or {}
    model.labels = Raw(raw).labels()
    model.folder = folder.path


def twin(model: Model, weights: Mapping[str, torch.Tensor]) -> Model:
    """A model of the same config and origin with these parameters, by name; for saving what lies elsewhere."""
    with on_meta():
        copy = build_model(model.config)
    for name, value in weights.items():
        place, _, last = name.rpartition(".")
        setattr(copy.get_submodule(place), last, torch.nn.Parameter(value, requires_grad=False))
    copy.tie()
    for field in ("raw", "architecture", "name", "folder", "processor", "generation", "labels"):
        setattr(copy, field, getattr(model, field))
    return copy


def table_for(family: Family, raw: Raw, kind: HeadKind) -> Table:
    """The rules of a family for one head."""
    prefixes = [a.prefix for a in family.architectures.values()]
    return Table(family.heads(raw, kind), family.backbone(raw), prefixes)


def fill(
    model: Model,
    family: Family,
    raw: dict[str, Any],
    kind: HeadKind,
    weights: Weights,
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    new_head: bool = False,
) -> None:
    """Put the weights into a model built on `meta`. `new_head` allows a head that the file does not hold."""
    reader = _Reader(model, table_for(family, Raw(raw), kind), weights, dtype, device)
    reader.others = [table_for(family, Raw(raw), other) for other in family.head_kinds if other != kind]
    reader.read()
    model.tie()
    reader.complete()
    missing = [name for name, p in model.named_parameters() if p.device.type == "meta"]
    fresh = [name for name in missing if name.startswith("head.")]
    if fresh and isinstance(model.head, FeaturesHead):
        model.head.pooler = None  # an encoder saved without its pooler has none
    elif fresh and new_head:
        reader.renew(fresh)
        model.fresh = tuple(fresh)
        log.warning("new weights for %s: the checkpoint has none; train before use", ", ".join(fresh))
    else:
        reader.problems += [f"nothing fills {name} {tuple(model.get_parameter(name).shape)}" for name in fresh]
    rest = [name for name in missing if not name.startswith("head.")]
    reader.problems += [f"nothing fills {name} {tuple(model.get_parameter(name).shape)}" for name in rest]
    reader.report()


class _Reader:
    """One pass over the weights, collecting every problem."""

    def __init__(self, model: Model, table: Table, weights: Weights, dtype: torch.dtype | None, device: torch.device):
        self.model, self.table, self.weights = model, table, weights
        self.dtype, self.device = dtype, device
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.aliases = dict(model.config.tied)
        self.others: list[Table] = []
        self.problems: list[str] = []
        self.pending: dict[Any, Pending] = {}
        self.tied: dict[str, tuple[str, Tensor]] = {}  # found under the name of an alias: (key on disk, tensor)

    def read(self) -> None:
        for key in self.weights.keys():  # noqa: SIM118  the order of the files
            match = self.table.match(key)
            if match is None:
                if not any(table.match(key) for table in self.others):
                    self._problem(key, f"no rule reads it; the nearest is {self.table.nearest(key)!r}")
                continue
            if not match.rule.our_keys:
                continue
            identity = (match.rule, match.captures)
            waiting = self.pending.setdefault(identity, Pending())
            waiting.parts[match.part] = self.weights.load(key)
            waiting.keys.append(key)
            if len(waiting.parts) == len(match.rule.disk_keys):
                self._convert(key, [waiting.parts[i] for i in sorted(waiting.parts)], match.targets, match.rule.ops)
                self._let_go(waiting)
                del self.pending[identity]
        for waiting in self.pending.values():
            self._problem(waiting.keys[0], "its companions are missing")
        for alias, (key, tensor) in self.tied.items():
            self._resolve(alias, key, tensor)

    def _let_go(self, done: Pending) -> None:
        """Give back what was looked through: what lies in a file is read again when it is used, and copies are made."""
        for key, tensor in zip(done.keys, done.parts.values(), strict=True):
            if self.weights.mapped(key):
                give_back(tensor)

    def complete(self) -> None:
        """Fill with zeros what a file may lack."""
        for name, parameter in list(self.model.named_parameters()):
            found = self.table.writer(name) if parameter.device.type == "meta" else None
            if found is not None and found[0].optional:
                self._put(name, torch.zeros(parameter.shape, device=self.device, dtype=self.model.dtype))

    def renew(self, names: list[str]) -> None:
        """Draw new weights for these parameters of the head; the others, tied ones among them, stay as they are."""
        head = build(self.model.config.head, *self.model.config.widths).to(self.device, self.model.dtype)
        initialise(head, self.model.config.init)
        for name in names:
            self._put(name, head.get_parameter(name.removeprefix("head.")).detach())

    def _put(self, name: str, tensor: Tensor) -> None:
        module, _, last = name.rpartition(".")
        learns = self.parameters[name].requires_grad
        setattr(self.model.get_submodule(module), last, nn.Parameter(tensor, requires_grad=learns))
        self.parameters[name] = self.model.get_parameter(name)

    def _resolve(self, alias: str, key: str, tensor: Tensor) -> None:
        """A tied tensor that the file holds: the owner's where that is missing; its own where the two differ."""
        owner = self.parameters[self.aliases[alias]]
        if owner.device.type == "meta":
            self._assign(key, self.aliases[alias], tensor)
        elif owner.shape != tensor.shape or not torch.equal(owner, tensor.to(owner)):
            config = self.model.config
            self.model.config = config.replace(tied=tuple(pair for pair in config.tied if pair[0] != alias))
            self._assign(key, alias, tensor)

    def _convert(self, key: str, parts: list[Tensor], targets: list[str], ops: tuple[Any, ...]) -> None:
        try:
            for op in ops:
                parts = op.read(parts)
        except (ValueError, IndexError, RuntimeError) as error:
            self._problem(key, str(error))
            return
        for target, part in zip(targets, parts, strict=True):
            if target in self.aliases:
                self.tied[target] = (key, part)
            else:
                self._assign(key, target, part)

    def _assign(self, key: str, target: str, tensor: Tensor) -> None:
        old = self.parameters.get(target)
        if old is None:
            self._problem(key, f"this model has no {target}")
        elif old.shape != tensor.shape:
            self._problem(key, f"gives {tuple(tensor.shape)}, but {target} is {tuple(old.shape)} by config.json")
        elif not tensor.is_floating_point():
            self._problem(key, f"has type {tensor.dtype}; a parameter needs floating point")
        elif not finite(tensor):
            self._problem(key, "holds NaN or infinity")
        else:
            new = self._own(tensor, self.dtype or tensor.dtype)
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            module, _, name = target.rpartition(".")
            setattr(self.model.get_submodule(module), name, new)
            self.parameters[target] = new

    def _own(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor on its device, of its type and contiguous: where it lies if it can stay there."""
        if self.device.type == "cpu" and not (tensor.dtype == dtype and tensor.is_contiguous()):
            return settled(tensor, dtype)
        return tensor.to(device=self.device, dtype=dtype).contiguous()

    def _problem(self, key: str, what: str) -> None:
        shape = "x".join(map(str, self.weights.shape(key)))
        self.problems.append(f"{self.weights.file(key)}: {key} ({shape}): {what}")

    def report(self, most: int = 20) -> None:
        """Raise one ValueError with all problems, if there are any."""
        if not self.problems:
            return
        lines = self.problems[:most] + (
            [f"... and {len(self.problems) - most} more"] if len(self.problems) > most else []
        )
        raise ValueError("the weights do not fit the config:\n  " + "\n  ".join(lines))


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """None keeps each tensor's own type."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else None
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed: auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]
