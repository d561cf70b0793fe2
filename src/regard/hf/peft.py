"""The names that tutorials of peft type, as doors to `regard.adapt`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regard import adapt
from regard.adapt import AdapterConfig, IA3Config, LoraConfig, PrefixTuningConfig, TaskType
from regard.adapt.adapters import adapters
from regard.models.model import Model

Ref = str | os.PathLike[str]

__all__ = ["IA3Config", "LoraConfig", "PeftConfig", "PeftModel", "PrefixTuningConfig", "TaskType", "get_peft_model"]


class PeftConfig:
    """The config of any adapter, by its files."""

    @staticmethod
    def from_pretrained(ref: Ref, *, revision: str | None = None, local_files_only: bool = False) -> AdapterConfig:
        """What adapter_config.json of a folder or hub id says."""
        return adapt.read_config(ref, revision=revision, offline=local_files_only or None)


class PeftModel(Model):
    """A model with adapters: the model itself, seen with more methods; both names stand for the same parameters.

    Made by `get_peft_model` and `PeftModel.from_pretrained`, which change the model that they are given.
    """

    @staticmethod
    def from_pretrained(
        model: Model,
        model_id: Ref,
        adapter_name: str = "default",
        is_trainable: bool = False,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> PeftModel:
        """A model with an adapter from a folder or the hub, ready to run, or with `is_trainable` to train on."""
        offline = local_files_only or None
        adapt.load_adapter(model, model_id, adapter_name, trainable=is_trainable, revision=revision, offline=offline)
        found = _seen(model)
        return found if is_trainable else found.eval()

    @property
    def peft_config(self) -> dict[str, AdapterConfig]:
        """The configs of all adapters."""
        return {name: planned.config for name, planned in adapters(self).plans.items()}

    @property
    def active_adapters(self) -> list[str]:
        """The adapters that work now."""
        return list(adapters(self).active)

    @property
    def active_adapter(self) -> str:
        """The first of them."""
        return next(iter(adapters(self).active), "")

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """How many numbers are trained, and how many there are."""
        return adapt.trainable(self)

    def print_trainable_parameters(self) -> None:
        """Print both, and the share."""
        some, all_ = adapt.trainable(self)
        print(f"trainable params: {some:,d} || all params: {all_:,d} || trainable%: {100 * some / all_:.4f}")

    def get_base_model(self) -> Model:
        """The same model, seen without these methods; its adapters stay."""
        return _seen(self, type(self).__mro__[2])

    def save_pretrained(self, save_directory: Ref, selected_adapters: Sequence[str] | None = None) -> None:  # type: ignore[override]
        """Write the adapters: "default" into the folder, the others into folders of their names in it."""
        for name in self.peft_config if selected_adapters is None else selected_adapters:
            folder = Path(save_directory)
            adapt.save_adapter(self, folder if name == "default" else folder / name, name)

    def add_adapter(self, adapter_name: str, peft_config: AdapterConfig) -> None:
        """Put another new adapter on; it is not made active."""
        adapt.add(self, peft_config, adapter_name)

    def load_adapter(
        self,
        model_id: Ref,
        adapter_name: str,
        is_trainable: bool = False,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Put another adapter on, from a folder or the hub; it is not made active."""
        offline = local_files_only or None
        adapt.load_adapter(self, model_id, adapter_name, trainable=is_trainable, revision=revision, offline=offline)

    def set_adapter(self, adapter_name: str | Sequence[str]) -> None:
        """Let this adapter work, or these, and train it."""
        adapt.set_active(self, adapter_name)

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The model as it was before, within the block."""
        with adapt.disabled(self):
            yield

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter off."""
        adapt.delete(self, adapter_name)

    def merge_adapter(self) -> None:
        """Put the active adapters into the weights."""
        adapt.merge(self)

    def unmerge_adapter(self) -> None:
        """Take them out of the weights again."""
        adapt.unmerge(self)

    def merge_and_unload(self) -> Model:
        """The model with the active adapters in its weights, and no adapters any more."""
        if not adapters(self).merged:
            adapt.merge(self)
        return self.unload()

    def unload(self) -> Model:
        """The model without adapters."""
        adapt.unload(self)
        return self.get_base_model()

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "svd",
        svd_rank: int | None = None,
    ) -> None:
        """A new adapter that does what a weighted sum of others does: "cat" exactly, "svd" within a rank."""
        if len(adapters) != len(weights):
            raise ValueError(f"there are {len(adapters)} adapters and {len(weights)} weights; allowed: as many of each")
        table = dict(zip(adapters, weights, strict=True))
        adapt.combine(self, table, adapter_name, how=combination_type, rank=svd_rank)


def get_peft_model(model: Model, peft_config: AdapterConfig, adapter_name: str = "default") -> PeftModel:
    """A model with a new adapter, ready to train: all else is frozen. The model is changed in place."""
    adapt.add(model, peft_config, adapter_name)
    return _seen(model)


def _seen(model: Model, kind: type[Model] | None = None) -> Any:
    """The same object under another class: both share everything that they hold."""
    if kind is None:
        kind = type(model)
        if not issubclass(kind, PeftModel):
            kind = type("PeftModel", (PeftModel, kind), {"__doc__": PeftModel.__doc__})
    view = object.__new__(kind)
    object.__setattr__(view, "__dict__", model.__dict__)
    return view
