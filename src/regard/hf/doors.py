"""The doors themselves: small objects with `from_pretrained`, each leading to one function of the library."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import regard
from regard import generation
from regard.checkpoint.find import Folder, find
from regard.models.base import Family
from regard.models.model import Model
from regard.models.registry import families, family_of, named

Ref = str | os.PathLike[str]


class Config(dict[str, Any]):
    """A config.json as it stands, its fields by name or by attribute."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"this config has no {name!r}; it has {', '.join(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def to_dict(self) -> dict[str, Any]:
        """A plain copy."""
        return dict(self)


@dataclass(frozen=True, kw_only=True)
class ConfigDoor:
    """`AutoConfig`, or the config of one model type (`BertConfig`)."""

    name: str
    model_type: str | None = None

    def __call__(self, **fields: Any) -> Config:
        """A config of these fields, which are written as in config.json."""
        if self.model_type is None:
            raise ValueError(f"{self.name} knows no model type; use {self.name}.for_model(model_type, ...)")
        return self.for_model(self.model_type, **fields)

    def for_model(self, model_type: str, **fields: Any) -> Config:
        """A config of a model type. Raises ValueError for one that nobody knows."""
        config = Config(model_type=model_type, **fields)
        family_of(config, "this config")
        return config

    def from_pretrained(
        self, ref: Ref, *, revision: str | None = None, local_files_only: bool = False, **fields: Any
    ) -> Config:
        """The config.json of a checkpoint, `fields` put over it."""
        folder = find(ref, revision=revision, offline=local_files_only or None)
        raw = _raw(folder)
        if self.model_type is not None:
            _same_family(self.name, family_of({"model_type": self.model_type}), folder, raw)
        return Config({**raw, **fields})


@dataclass(frozen=True, kw_only=True)
class TokenizerDoor:
    """`AutoTokenizer`, or any `XxxTokenizer`: the files say which kind it is."""

    name: str

    def from_pretrained(
        self,
        ref: Ref,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        use_fast: bool = True,
        trust_remote_code: bool = False,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        model_max_length: int | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        pad_token: str | None = None,
    ) -> Any:
        """The tokenizer of a checkpoint, with these settings changed; code is never run, and all are fast."""
        from regard.preprocess.text import Tokenizer

        settings = {
            "padding_side": padding_side,
            "truncation_side": truncation_side,
            "model_max_length": model_max_length,
            "src_lang": src_lang,
            "tgt_lang": tgt_lang,
            "pad_token": pad_token,
        }
        tokenizer = Tokenizer.from_folder(find(ref, revision=revision, offline=local_files_only or None).path)
        for name, value in settings.items():
            if value is not None:
                setattr(tokenizer, name, value)
        return tokenizer

    def __instancecheck__(self, thing: object) -> bool:
        from regard.preprocess.text import Tokenizer

        return isinstance(thing, Tokenizer)


@dataclass(frozen=True, kw_only=True)
class ProcessorDoor:
    """`AutoProcessor`, `AutoImageProcessor`, `AutoFeatureExtractor`, or any of their `Xxx...`: the files say which.

    `part` is "image_processor" or "feature_extractor" where the name means only that; None means all that is there.
    """

    name: str
    part: str | None = None

    def from_pretrained(
        self,
        ref: Ref,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        use_fast: bool | None = None,
        trust_remote_code: bool = False,
        backend: str | None = None,
    ) -> Any:
        """The processor of a checkpoint; code is never run. The last three change nothing.

        Raises ValueError for a checkpoint that has none of this kind.
        """
        from regard import front
        from regard.tasks.parts import NAMES, split

        folder = find(ref, revision=revision, offline=local_files_only or None)
        found = front.processor(folder.path)
        if self.part is not None:
            found = split(found).get(self.part)
        if found is None:
            what = NAMES[self.part] if self.part is not None else "a processor"
            raise ValueError(f"{folder.name} has no files of {what} for {self.name}; it holds {folder.listing()}")
        return found

    def __instancecheck__(self, thing: object) -> bool:
        from regard.tasks.parts import split

        if not type(thing).__module__.startswith("regard.preprocess."):
            return False
        return self.part is None or split(thing).get(self.part) is thing


@dataclass(frozen=True, kw_only=True)
class ModelDoor:
    """A class name: a head, and unless it begins with "Auto", the family that it opens.

    `head` of some "Auto" names is several with commas between: the first that a family has. `sense`: what the family
    must read ("image", "video", "sound").
    """

    name: str
    head: str
    family: Family | None = None
    sense: str | None = None

    def from_pretrained(
        self,
        ref: Ref,
        *,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: str | torch.device | Mapping[str, Any] | None = None,
        num_labels: int | None = None,
        id2label: Mapping[int, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        low_cpu_mem_usage: bool | None = None,
        use_safetensors: bool | None = None,
    ) -> Model:
        """`regard.load` with this head. The last three change nothing: no code is run, and memory is always spared.

        `device_map` is a device, "auto" (the first GPU, if there is one) or {"": device}. Raises ValueError for a
        checkpoint of another family.
        """
        offline = local_files_only or None
        folder = find(ref, revision=revision, offline=offline)
        raw = _raw(folder)
        if self.family is not None:
            _same_family(self.name, self.family, folder, raw)
        head = self._head_for(family_of(raw, str(folder.path / "config.json")), folder.name)
        labels = {int(number): str(label) for number, label in (id2label or {}).items()}
        model = regard.load(
            folder.path,
            head=head,
            num_labels=len(labels) or num_labels,
            dtype=dtype or torch_dtype or "auto",
            device=_device(device_map),
        )
        model.name = folder.name
        if labels:
            model.name_labels(labels)
        return model

    def from_config(self, config: Mapping[str, Any]) -> Model:
        """A new model with random weights from a config (`AutoConfig.from_pretrained`, `BertConfig`, ...)."""
        found = family_of(config, "this config")
        if self.family not in (None, found):
            raise ValueError(f"{self.name} is of {self.family.title}; this config is of {found.title}")
        return regard.from_config(dict(config), head=self._head_for(found, "this config"))

    __call__ = from_config

    def _head_for(self, family: Family, name: str) -> str:
        """The head to open; ValueError for a family that reads something else, or that has none of several heads."""
        if self.sense is not None and self.sense not in family.reads:
            reads = " and ".join(family.reads)
            raise ValueError(
                f"{name} is of {family.title}, which reads {reads}; {self.name} opens what reads {self.sense}"
            )
        heads = self.head.split(", ")
        return next((head for head in heads if head in family.head_kinds), heads[0])

    def __instancecheck__(self, thing: object) -> bool:
        if not isinstance(thing, Model) or not thing.architecture:
            return False
        family = family_of(thing.raw)
        reads = self.sense is None or self.sense in family.reads
        held = family.architectures[thing.architecture].head
        return self.family in (None, family) and reads and held in self.head.split(", ")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(generation.GenerationConfig):
    """Options of `generate`, also from a checkpoint."""

    @classmethod
    def from_pretrained(
        cls, ref: Ref, *, revision: str | None = None, local_files_only: bool = False, **options: Any
    ) -> GenerationConfig:
        """What a checkpoint's generation_config.json says, `options` put over it."""
        folder = find(ref, revision=revision, offline=local_files_only or None)
        found = generation.config.from_checkpoint(folder.json("generation_config.json") or {}, _raw(folder))
        resolved = generation.config.resolve(found, None, options)
        return cls(**{field.name: getattr(resolved, field.name) for field in dataclasses.fields(resolved)})


def model_door(name: str) -> ModelDoor:
    """The door of a class name of some family. Raises AttributeError with the near names for one of no family."""
    known: dict[str, ModelDoor] = {}
    for family in families().values():
        for architecture, info in family.architectures.items():
            known.setdefault(architecture, ModelDoor(name=architecture, head=info.head, family=family))
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *regard.hf.__all__], 3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise AttributeError(f"module 'regard.hf' has no attribute {name!r}{hint}")
    return known[name]


def config_door(name: str) -> ConfigDoor:
    """`AutoConfig`, or the config that a model type names: BertConfig for bert, XLMRobertaConfig for xlm-roberta."""
    types = {_squeezed(kind): kind for family in families().values() for kind in family.model_types}
    kind = types.get(_squeezed(name.removesuffix("Config")))
    if kind is None and name != "AutoConfig":
        raise AttributeError(f"module 'regard.hf' has no attribute {name!r}; there are configs of {', '.join(types)}")
    return ConfigDoor(name=name, model_type=kind)


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _raw(folder: Folder) -> dict[str, Any]:
    raw = folder.json("config.json")
    if raw is None:
        raise ValueError(f"{folder.path} has no config.json; it holds {folder.listing()}")
    return raw


def _same_family(name: str, wanted: Family, folder: Folder, raw: Mapping[str, Any]) -> None:
    found = family_of(raw, str(folder.path / "config.json"))
    if found is not wanted:
        there = named(raw) or found.title
        auto = "AutoConfig" if name.endswith("Config") else "an AutoModel class"
        raise ValueError(
            f"{folder.name} is a {found.title} checkpoint ({there}); {name} opens {wanted.title}: "
            f"use a class of {found.title}, or {auto}"
        )


def _device(device_map: str | torch.device | Mapping[str, Any] | None) -> torch.device:
    device: Any = device_map
    if isinstance(device_map, Mapping):
        if list(device_map) != [""]:
            raise ValueError(f"device_map is {dict(device_map)!r}; allowed: one device for all: {{'': device}}")
        device = device_map[""]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cpu" if device is None else device)
