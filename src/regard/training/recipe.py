"""A recipe: what to train, on what, how; a TOML file, or an objective's name, with `key=value` on top."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from regard.training.config import TrainConfig, settings

SIZE_LIMIT = 2**20
"""Largest recipe, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The parts of a recipe, each a key or a table of the TOML file.

    - `objective`: a name, or a table with a name and options;
    - `model`: what to start from (a folder, a hub id), or a table of config.json fields for a new model;
    - `shrink`: `layers` (numbers) and `vocabulary` (tokens) to keep of the model to start from;
    - `tokenizer`: a folder, "characters", or a table {kind, vocab_size} to train one;
    - `data`: `train`, `valid`, `test` (files, or a part such as 0.1) and what their columns mean;
    - `train`: the options of `TrainConfig`; `adapter`: LoRA and its relatives; `metrics`: names;
    - `output`: the run's folder; `search`: ranges for the hyper-parameter search; `sweep`: sizes and parts of the data;
    - `about`: licence and source of the data, for the card.
    """

    objective: str | Mapping[str, Any] = "causal-lm"
    model: str | Mapping[str, Any] = ""
    shrink: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str | Mapping[str, Any] = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    sweep: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def config(self) -> TrainConfig:
        """The training options, checked."""
        return settings(**self.train)

    def path(self, value: str) -> Path:
        """A path of the recipe: beside the recipe, else from where the command was given, else in $REGARD_DATA."""
        data = os.environ.get("REGARD_DATA")
        places = [self.folder / value, Path(value), *([Path(data) / value] if data else [])]
        return next((place for place in places if place.exists()), Path(value))


def read_recipe(source: str | Path, changes: Iterable[str] = (), *, objectives: Iterable[str] = ()) -> Recipe:
    """A recipe from a TOML file, or from the name of an objective, with `key=value` changes such as "train.steps=100".

    A change may leave out the table where only one has the name. Raises ValueError naming what cannot be read.
    """
    path = Path(source)
    values: dict[str, Any]
    names = list(objectives)
    if str(source) in names:
        values, folder = {"objective": str(source)}, Path()
    elif path.suffix == ".toml" or path.is_file():
        values, folder = _toml(path), path.parent
    else:
        near = difflib.get_close_matches(str(source), names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f": {', '.join(names)}"
        raise ValueError(f"recipe is {str(source)!r}; allowed: a .toml file, or the name of an objective{hint}")
    for change in changes:
        _apply(values, change)
    known = {f.name for f in fields(Recipe)} - {"folder"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{source}: there is no table {unknown[0]!r} in a recipe{_near(unknown[0], known)}")
    if "metrics" in values:
        values["metrics"] = (values["metrics"],) if isinstance(values["metrics"], str) else tuple(values["metrics"])
    for name in ("shrink", "data", "train", "adapter", "search", "sweep", "about"):
        if not isinstance(values.get(name, {}), dict):
            raise ValueError(
                f"{source}: {name} is {values[name]!r}; allowed: a table, as in [{name}] or {name}.key=value"
            )
    return Recipe(**values, folder=folder)


def changed(changes: Iterable[str]) -> dict[str, Any]:
    """{"key": value} of "key=value", the value as in TOML. Raises ValueError for what is no change."""
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not name:
            raise ValueError(f"{change!r} is no option; write key=value, as in label=stars")
        values[name] = _value(text)
    return values


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    if not path.is_file():
        raise ValueError(f"there is no recipe {path}")
    if path.stat().st_size > SIZE_LIMIT:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a recipe has at most {SIZE_LIMIT:,}")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def _apply(values: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise ValueError(f"{change!r} is no change of a recipe; write key=value, as in train.steps=100")
    *tables, key = name.split(".")
    if not tables and key in _shortcuts():
        tables = ["train"]
    place: Any = values
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise ValueError(f"{change!r}: {table} is no table in this recipe, but {place!r}")
    place[key] = _value(text)


def _shortcuts() -> set[str]:
    """Training options may be changed without their table."""
    config = TrainConfig()
    parts = {f.name for part in (config.optimizer, config.schedule) for f in fields(part)} - {"name"}
    return {f.name for f in fields(TrainConfig)} | parts


def _value(text: str) -> Any:
    """TOML where it is, else the text itself: 3e-4, true, [1, 2], "x" and plain words."""
    import tomllib

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return {"none": None}.get(text.lower(), text)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(sorted(known))}"
