"""config -> module: one dispatch on the config's type.

A family with a quirk subclasses a config, subclasses the module, and registers the pair with `@builds`; everything that
holds such a config then builds the right module, and no flag is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from regard.config import Config

Builder = TypeVar("Builder", bound=Callable[..., Any])
_builders: dict[type[Config], Callable[..., nn.Module]] = {}


def builds(config: type[Config]) -> Callable[[Builder], Builder]:
    """Class or function decorator: `build(config, ...)` calls it with the config first."""

    def register(builder: Builder) -> Builder:
        assert config not in _builders, f"{config.__name__} is already built by {_builders[config]}"
        _builders[config] = builder
        return builder

    return register


def build(config: Config, *sizes: Any) -> Any:
    """The module that a config describes. `sizes` are what it must know of its surroundings, such as `dim`.

    Raises TypeError if nothing was registered for the config's class or a parent of it.
    """
    for kind in type(config).__mro__:
        if kind in _builders:
            return _builders[kind](config, *sizes)
    raise TypeError(f"nothing builds a {type(config).__name__}; register its module with @builds")
