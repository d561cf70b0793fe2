"""Optional packages, imported where they are used; where one is absent, the error names the command that brings it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtra(ImportError):
    """A feature needs a package that is not installed; the message says which extra brings it."""


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtra` with the install command of the extra that brings it.

    `module` is the name that is imported (`"PIL.Image"`), `extra` the extra's name in pyproject.toml (`"vision"`).
    An ImportError from inside a package that is installed but broken passes through unchanged.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtra(f"this needs {package}: pip install 'regard[{extra}]'", name=package) from None
