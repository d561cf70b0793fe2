"""regard: the Transformer, whole. This front door is lazy: importing it imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "regard.front",
    "from_config": "regard.checkpoint.load",
    "save": "regard.checkpoint.save",
    "Model": "regard.models.model",
    "pipeline": "regard.tasks.pipeline",
    "capture": "regard.inspect.capture",
    "transformer": "regard.front",
    "fit": "regard.training.loop",
    "plot_attention": "regard.inspect.plot",
}

_ROOMS = ("tasks", "training", "adapt", "inspect", "generation", "preprocess", "hf")
"""Rooms that may be entered by their name: `regard.tasks.toy`."""

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from regard.checkpoint.load import from_config as from_config
    from regard.checkpoint.save import save as save
    from regard.front import load as load
    from regard.front import transformer as transformer
    from regard.inspect.capture import capture as capture
    from regard.inspect.plot import plot_attention as plot_attention
    from regard.models.model import Model as Model
    from regard.tasks.pipeline import pipeline as pipeline
    from regard.training.loop import fit as fit


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"regard.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'regard' has no attribute {name!r}; it has {', '.join(__all__)}")
    importlib.import_module("regard.front")  # where models get their `generate` and `save_pretrained`
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
