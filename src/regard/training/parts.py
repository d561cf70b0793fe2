"""The [data] of a recipe -> rows to learn from, rows to judge on, and the classes that they name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regard.training.data.classes import by_ranges
from regard.training.data.clean import clean, deduplicate
from regard.training.data.folders import split_of
from regard.training.data.labels import Labels
from regard.training.data.read import read_rows
from regard.training.data.rows import column_of
from regard.training.data.split import split
from regard.training.kinds import Kind
from regard.training.recipe import Recipe

READING = ("columns", "by", "delimiter", "quoting", "encoding", "pattern", "tolerant")
"""Options of [data] that say how files are read."""
OWN = (*READING, "train", "valid", "test", "clean", "deduplicate", "limit", "group", "seed")
"""Options of [data] for every objective."""
NAMES = ("train", "valid", "test")
HELD_OUT = 0.1
"""The part that is held out where nobody says, of as many rows as `ENOUGH`."""
ENOUGH = 20


@dataclass
class Parts:
    """Rows by the name of their part; `numbers` are those of the rows in their file, where some were chosen.

    `how` are the options of [data] that the objective's rows are made with, `labels` the classes.
    """

    rows: dict[str, Any]
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)
    labels: Labels | None = None
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def located(self, name: str) -> Iterator[None]:
        """Within, what is said of a row names its part and its number in the file."""
        try:
            yield
        except ValueError as error:
            numbers = self.numbers.get(name)
            text = str(error)
            if numbers is not None:
                text = re.sub(r"^row (\d+)\b", lambda m: f"row {numbers[int(m[1])]}", text)
            raise ValueError(f"data.{name}: {text}") from None

    def thin(self, name: str, limit: Any) -> None:
        """At most so many rows of a part, spread over it, as it may be sorted. Raises ValueError for no number."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit is {limit!r}; allowed: a number of rows, 1 or more")
        rows = self.rows[name]
        if limit < len(rows):
            numbers = np.linspace(0, len(rows) - 1, limit).astype(int)
            known = self.numbers.get(name)
            self.rows[name], self.numbers[name] = selected(rows, numbers), numbers if known is None else known[numbers]


def parts_of(recipe: Recipe, kind: Kind, *, classes: bool = True, share: bool = True) -> Parts:
    """Read and share out the data of a recipe; with `classes`, learn their names from the rows to train on.

    Parts that are numbers are held out of the rows to train on; without `share` none are. Raises ValueError naming
    what does not fit.
    """
    check(recipe.data, kind)
    data = recipe.data
    if "train" not in data:
        raise ValueError("data.train is missing: which file, folder or files to learn from, as in data.train=my.csv")
    sources = {"train": data["train"], **{name: data[name] for name in NAMES[1:] if name in data}}
    inner = _inner(recipe, data["train"])
    if "train" in inner:  # a folder with a part for each
        sources = {**{name: data["train"] for name in NAMES if name in inner}, **sources}
    parts = Parts(rows={}, how={key: value for key, value in data.items() if key not in OWN})
    chosen = {name: value for name, value in sources.items() if isinstance(value, Mapping) and "values" in value}
    others = {name: value for name, value in sources.items() if name not in chosen}
    files = {name: value for name, value in others.items() if value and not isinstance(value, (bool, int, float))}
    for name, value in files.items():
        whole = name in inner and value == data["train"]
        parts.rows[name] = _read(recipe, name, value, name if whole else None)
    for name, value in chosen.items():
        _take_out(parts, name, value)
    columns = kind.columns(parts.rows["train"], data)
    parts.how = _derived(parts, kind)
    _tidied(parts, data, columns)
    if classes and kind.label is not None:
        with parts.located("train"):
            parts.labels = Labels.of_column(parts.rows["train"], label_column(parts.how, kind))
        if isinstance(data.get("label"), Mapping):  # in the order of the ranges
            parts.labels = Labels(name for name in data["label"]["classes"] if name in parts.labels.names)
        if len(parts.labels) < 2:
            column = label_column(parts.how, kind)
            raise ValueError(f"data.train: {column!r} is {parts.labels.names[0]!r} in every row; allowed: two classes")
    shares = {name: value for name, value in others.items() if name not in files and value}
    if share and "valid" not in sources and kind.held_out:
        if len(parts.rows["train"]) >= ENOUGH or (len(parts.rows["train"]) == 1 and columns):
            shares["valid"] = HELD_OUT
        else:
            parts.notes.append(f"fewer than {ENOUGH} rows: none is held out; give data.valid to judge the model")
    if shares:
        _share_out(parts, shares, data, kind)
    return parts


def check(data: Mapping[str, Any], kind: Kind) -> None:
    """Raise a ValueError for an option of [data] that an objective does not have."""
    known = (*OWN, *kind.options)
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(known)}"
            raise ValueError(f"data has no option {name!r} for this objective{hint}")


def label_column(how: Mapping[str, Any], kind: Kind) -> str:
    """The column that holds the classes."""
    assert kind.label is not None
    return str(how.get(kind.label, kind.label))


def selected(rows: Any, numbers: Any) -> Any:
    """The rows of these numbers."""
    return rows.select(numbers) if hasattr(rows, "select") else [rows[int(i)] for i in numbers]


def _inner(recipe: Recipe, source: Any) -> set[str]:
    """The parts that a folder holds."""
    if not isinstance(source, (str, os.PathLike)):
        return set()
    folder = recipe.path(str(source))
    return {str(split_of(path.name)) for path in folder.iterdir()} & set(NAMES) if folder.is_dir() else set()


def _read(recipe: Recipe, name: str, value: Any, inner: str | None) -> Any:
    how = {key: recipe.data[key] for key in READING if key in recipe.data}
    source: Any
    if isinstance(value, (str, os.PathLike)):
        source = _there(recipe, name, str(value))
    elif isinstance(value, Mapping):
        source = {key: _there(recipe, name, str(path)) for key, path in value.items()}
    elif isinstance(value, (list, tuple)) and all(isinstance(path, (str, os.PathLike)) for path in value):
        source = [_there(recipe, name, str(path)) for path in value]
    else:
        source = value  # rows in memory
    reading: dict[str, Any] = {**how, **({} if inner is None else {"split": inner})}
    rows = read_rows(source, **reading)
    if not len(rows):
        raise ValueError(f"data.{name}: {value} has no rows")
    return rows


def _there(recipe: Recipe, name: str, value: str) -> Path:
    path = recipe.path(value)
    if not path.exists():
        source = f"; it comes from {recipe.about['source']}" if recipe.about.get("source") else ""
        raise ValueError(
            f"data.{name}: there is no file or folder {value!r} beside the recipe, here, or in $REGARD_DATA{source}"
        )
    return path


def _take_out(parts: Parts, name: str, wanted: Mapping[str, Any]) -> None:
    """The rows of `train` with these values in a column, such as those of one speaker, become a part of their own."""
    if name == "train" or set(wanted) != {"column", "values"} or not isinstance(wanted["values"], list):
        raise ValueError(
            f"data.{name} is {dict(wanted)}; allowed: files, or for valid and test {{column = ..., values = [...]}}"
        )
    rows, values = parts.rows["train"], {str(value) for value in wanted["values"]}
    inside = np.array([str(value) in values for value in column_of(rows, str(wanted["column"]))])
    if inside.all() or not inside.any():
        has = "every" if inside.all() else "no"
        raise ValueError(f"data.{name}: {has} row has one of {sorted(values)} in its column {wanted['column']!r}")
    known = parts.numbers.get("train", np.arange(len(rows)))
    for part, numbers in ((name, np.flatnonzero(inside)), ("train", np.flatnonzero(~inside))):
        parts.rows[part], parts.numbers[part] = selected(rows, numbers), known[numbers]


def _derived(parts: Parts, kind: Kind) -> dict[str, Any]:
    """Classes that are ranges of a number are put in a column of their own."""
    wanted = parts.how.get("label")
    if not isinstance(wanted, Mapping):
        return parts.how
    for name in parts.rows:
        with parts.located(name):
            count = len(parts.rows[name])
            known = parts.numbers.get(name)
            parts.rows[name], numbers = by_ranges(parts.rows[name], wanted)
            parts.numbers[name] = numbers if known is None else known[numbers]
        lost = count - len(parts.rows[name])
        if lost:
            parts.notes.append(f"{name}: {lost:,} of {count:,} rows are in none of the classes, and left out")
        if not len(parts.rows[name]):
            raise ValueError(f"data.{name}: no row is in any of the classes of data.label")
    return {**parts.how, "label": "label"}


def _tidied(parts: Parts, data: Mapping[str, Any], columns: list[str]) -> None:
    limit = data.get("limit")
    if limit is not None:
        parts.thin("train", limit)
    rows = parts.rows["train"]
    if data.get("clean"):
        rows, report = clean(rows, columns)
        parts.notes.append(f"train: {report}")
        parts.numbers.pop("train", None)
    if data.get("deduplicate"):
        near = data["deduplicate"] if isinstance(data["deduplicate"], float) else None
        rows, report = deduplicate(rows, columns, near=near)
        parts.notes.append(f"train: {report}")
        parts.numbers.pop("train", None)
    parts.rows["train"] = rows


def _share_out(parts: Parts, shares: Mapping[str, Any], data: Mapping[str, Any], kind: Kind) -> None:
    for name, share in shares.items():
        if isinstance(share, bool) or not 0 < share < 1:
            raise ValueError(f"data.{name} is {share!r}; allowed: a file, or a part of data.train between 0 and 1")
    if sum(shares.values()) >= 1:
        raise ValueError(f"data.valid and data.test are {dict(shares)}; allowed: parts that leave rows to learn from")
    rows = parts.rows["train"]
    if len(rows) == 1 and kind.texts:  # one long text: its end is held out
        parts.rows |= _cut(rows, str(data.get(kind.texts[0], kind.texts[0])), shares)
        return
    labels = groups = None
    if data.get("group") is not None:
        groups = column_of(rows, str(data["group"]))
    elif kind.label is not None:
        values = column_of(rows, label_column(parts.how, kind))
        plain = all(isinstance(value, (str, int, bool)) for value in values)
        labels = values if plain and len(set(values)) < len(values) / 2 else None
    found = split(
        len(rows),
        {"train": 1 - sum(shares.values()), **shares},
        seed=int(data.get("seed", 0)),
        labels=labels,
        groups=groups,
    )
    known = parts.numbers.get("train")
    for name, numbers in found.items():
        parts.rows[name] = selected(rows, numbers)
        parts.numbers[name] = numbers if known is None else known[numbers]


def _cut(rows: Any, column: str, shares: Mapping[str, float]) -> dict[str, Any]:
    text = column_of(rows, column)[0]
    start = int(len(text) * (1 - sum(shares.values())))
    found = {"train": [{column: text[:start]}]}
    for i, (name, share) in enumerate(shares.items()):
        end = len(text) if i + 1 == len(shares) else start + int(len(text) * share)
        found[name] = [{column: text[start:end]}]
        start = end
    return found
