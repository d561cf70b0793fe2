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
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from regard.checkpoint.load import from_config as from_config
    from regard.checkpoint.save import save as save
    from regard.front import load as load
    from regard.models.model import Model as Model
    from regard.tasks.pipeline import pipeline as pipeline


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'regard' has no attribute {name!r}; it has {', '.join(__all__)}")
    home = importlib.import_module(_HOMES[name])
    if name != "save":
        importlib.import_module("regard.generation")  # gives models their `generate`
        importlib.import_module("regard.checkpoint.save")  # and their `save_pretrained`
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__
