"""Families are found by file: every module of this folder with a `FAMILY` is one."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import regard.models
from regard.models.base import Family, HeadKind

_MACHINERY = {"base", "common", "model", "registry"}


@functools.cache
def families() -> dict[str, Family]:
    """All families by name."""
    return {family.name: family for family in sorted(map(_family, _files()), key=lambda family: family.name)}


@functools.cache
def _files() -> list[str]:
    """The names of their modules."""
    names = [info.name for info in pkgutil.iter_modules(regard.models.__path__)]
    return [name for name in names if name not in _MACHINERY and name[0] != "_"]  # _x.py: bricks of a family's own


def _family(name: str) -> Family:
    found: Family = importlib.import_module(f"regard.models.{name}").FAMILY
    return found


def _near(kind: Any) -> Iterator[Family]:
    """All families, the one first whose file has the name of the type: most often the others need no import."""
    name = kind.replace("-", "_") if isinstance(kind, str) else ""
    if name in _files():
        yield _family(name)
    yield from families().values()


def family_of(raw: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family that a config.json names in `model_type`, or else by its architecture.

    Raises ValueError listing near names; a checkpoint that wants its own code run is refused by name.
    """
    kind, names = raw.get("model_type"), raw.get("architectures") or []
    for family in _near(kind):
        if kind in family.model_types:
            return family
    if kind is None and isinstance(names, list):
        for family in families().values():
            if any(name in family.architectures for name in names):
                return family
    if "auto_map" in raw:
        raise ValueError(
            f"{where}: model_type {kind!r} needs code from the checkpoint (auto_map); regard never runs it"
        )
    known = sorted(t for family in families().values() for t in family.model_types)
    if not isinstance(kind, str):
        raise ValueError(f"{where}: model_type is {kind!r}; allowed: one of {', '.join(known)}")
    near = difflib.get_close_matches(kind, known, 3) or known
    raise ValueError(f"{where}: model_type is {kind!r:.80}; allowed: {', '.join(near)}")


def head_of(family: Family, raw: Mapping[str, Any], head: str | None = None, where: str = "config.json") -> HeadKind:
    """The head asked for, or the one that `architectures` names, or plain features."""
    if head is not None:
        family.architecture_for(head)  # type: ignore[arg-type]  # raises for an unknown kind
        return head  # type: ignore[return-value]
    names = raw.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: architectures is {names!r:.80}; allowed: a list of class names")
    for name in names:
        if name in family.architectures:
            return family.architectures[name].head
    if names:
        raise ValueError(f"{where}: architectures is {names[0]!r:.80}; allowed: {', '.join(family.architectures)}")
    return "features"


def named(raw: Mapping[str, Any]) -> str:
    """The class name that a config.json gives first, or nothing."""
    names = raw.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""
