"""Frozen, keyword-only values that check themselves, and go to a dict and back."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

MAX_SIZE = 2**24
"""The largest width, vocabulary or length that a config may name; checked before anything is allocated."""
MAX_LAYERS = 4096

C = TypeVar("C", bound="Config")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the annotated type; numbers must also be finite and no bool may pass for a number."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args, strict=True))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE
    return isinstance(value, hint)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


_kinds: dict[str, type[Config]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configs: checks every field against its annotation, and goes to a dict and back."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _kinds[cls.__name__] = cls

    def __post_init__(self) -> None:
        hints = _hints(cast(Any, type(self)))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _fits(value, hints[field.name]):
                allowed = str(field.type).replace("int", f"int from 0 to {MAX_SIZE}", 1)
                raise ValueError(f"{type(self).__name__}.{field.name} is {_short(value)}; allowed: {allowed}")
        self.check()

    def check(self) -> None:
        """Relations between fields; a subclass raises ValueError through `require`."""

    def require(self, ok: bool, field: str, allowed: str) -> None:
        """Raise a ValueError that names the field, its value and what is allowed, unless `ok`."""
        if not ok:
            raise ValueError(f"{type(self).__name__}.{field} is {_short(getattr(self, field))}; allowed: {allowed}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; each node carries its class name under `"is"`."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"is": type(self).__name__, **fields}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises ValueError for an unknown class or field name."""
        kind = _kinds.get(str(data.get("is")))
        if kind is None:
            raise ValueError(f"config node is {data.get('is')!r}; allowed: {', '.join(sorted(_kinds))}")
        known = {f.name for f in dataclasses.fields(kind)}
        unknown = sorted(set(data) - known - {"is"})
        if unknown:
            raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}; allowed: {', '.join(sorted(known))}")
        return kind(**{name: _revived(value) for name, value in data.items() if name != "is"})

    def replace(self: C, **changes: Any) -> C:
        """A copy with some fields changed (and checked again)."""
        return dataclasses.replace(self, **changes)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        return Config.from_dict(value)
    return tuple(_revived(v) for v in value) if isinstance(value, list) else value
