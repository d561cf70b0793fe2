"""Writing a recipe as TOML, which Python only reads."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from regard.checkpoint.files import atomic
from regard.training.recipe import Recipe

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_FILES = ("train", "valid", "test")


def write_recipe(path: Path, recipe: Recipe, remark: str = "") -> None:
    """Write a recipe that can be run from anywhere on this machine: paths that are there become absolute."""
    with atomic(path) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in remark.splitlines()) + recipe_text(recipe), "utf-8")


def recipe_text(recipe: Recipe) -> str:
    """A recipe as TOML, with paths that are there made absolute."""
    values: dict[str, Any] = {f.name: getattr(recipe, f.name) for f in fields(Recipe) if f.name != "folder"}
    for name in ("model", "tokenizer"):
        values[name] = _absolute(recipe, values[name])
    data = {name: _absolute(recipe, v) if name in _FILES else v for name, v in values["data"].items()}
    return to_toml({name: v for name, v in {**values, "data": data}.items() if v not in ("", (), {})})


def _absolute(recipe: Recipe, value: Any) -> Any:
    if isinstance(value, str):
        return str(recipe.path(value).resolve()) if value and recipe.path(value).exists() else value
    if isinstance(value, Mapping):
        return {name: _absolute(recipe, v) if name not in ("kind", "model_type") else v for name, v in value.items()}
    return [_absolute(recipe, v) for v in value] if isinstance(value, (list, tuple)) else value


def to_toml(values: Mapping[str, Any], name: str = "") -> str:
    """A document of tables, numbers, texts, booleans and lists of them; None, which TOML has not, is left out."""
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping) and v is not None}
    tables = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    lines = [f"{_key(k)} = {toml_value(v)}\n" for k, v in plain.items()]
    if name and (lines or not tables):
        lines.insert(0, f"\n[{name}]\n")
    return "".join(lines) + "".join(to_toml(v, f"{name}.{_key(k)}".lstrip(".")) for k, v in tables.items())


def _key(key: Any) -> str:
    return str(key) if _BARE.fullmatch(str(key)) else _text(str(key))


def toml_value(value: Any) -> str:
    """A value as TOML writes it in a line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)  # inf and nan are TOML as they are
    if isinstance(value, int):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(v) for v in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    return _text(str(value))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's
