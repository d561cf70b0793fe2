"""A model on a file with the right answers: what `regard evaluate` prints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import regard
from regard.models.model import Model
from regard.training.base import Objective
from regard.training.build import named, objective_of, prepared
from regard.training.data.labels import Labels
from regard.training.evaluate import evaluate
from regard.training.kinds import KINDS, Kind
from regard.training.metrics import find_metrics
from regard.training.objectives import OBJECTIVES
from regard.training.objectives.choose import head_kind, objective_for
from regard.training.objectives.classification import Classification
from regard.training.parts import Parts, parts_of
from regard.training.problem import Problem
from regard.training.recipe import Recipe, changed, read_recipe

WRITTEN = {None: ("bleu", "rougeL"), "image": ("bleu", "rougeL"), "audio": ("wer", "cer")}
"""Metrics of what is written, by what was read, where none are named."""


def judge(
    ref: str | Model,
    data: Any,
    changes: Sequence[str] = (),
    *,
    metrics: Sequence[str] = (),
    objective: str = "",
    beams: int = 0,
    limit: int = 0,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Loss and metrics of a model on rows.

    `data` is a file, a folder, rows, or a recipe, of which the rows for testing (or else for validation) are taken.
    `changes` name columns and how to read them, as the recipe's [data] does ("label=stars"), or change the recipe.
    Gives {"rows", "loss", ..., "seconds"}. Raises ValueError for data that does not fit the model's head.
    """
    measures = find_metrics(tuple(metrics))
    model = regard.load(ref) if isinstance(ref, str) else ref
    from_recipe = isinstance(data, (str, Path)) and Path(data).suffix == ".toml"
    read = _held_out if from_recipe else _given
    name, options, parts = read(model, data, changes, objective, limit)
    kind, part = KINDS[name], next(p for p in ("test", "valid", "train") if p in parts.rows)
    goal = objective_of(name, model, parts, options)
    ready = prepared(kind, parts, part, model, goal, learn=False)
    usual = kind.usual(goal)
    if name in ("seq2seq", "ctc"):
        usual = WRITTEN["audio" if name == "ctc" else kind.sense(parts.rows[part], parts.how)]
    start = time.perf_counter()
    with _beams(model, beams):
        problem = Problem(goal, ready, ready, metrics=measures or find_metrics(usual))
        scores = evaluate(model, problem, batch_size=batch_size)
    return {"rows": len(ready), **scores, "seconds": round(time.perf_counter() - start, 1)}


def _held_out(
    model: Model, data: Any, changes: Sequence[str], objective: str, limit: int
) -> tuple[str, dict[str, Any], Parts]:
    """What a recipe holds out."""
    recipe = read_recipe(data, changes, objectives=OBJECTIVES)
    name, options = named(recipe.objective)
    if objective not in ("", name):
        raise ValueError(f"objective is {objective!r}, but {data} is for {name!r}")
    _check_head(model, name)
    parts = parts_of(recipe, KINDS[name], classes=False)
    if set(parts.rows) == {"train"}:
        raise ValueError(f"{data} holds no rows out to judge on: it has neither data.test nor data.valid")
    for part in ("test", "valid"):
        if limit and part in parts.rows:
            parts.thin(part, limit)
    parts.labels = _labels(model, KINDS[name], options)
    return name, options, parts


def _given(
    model: Model, data: Any, changes: Sequence[str], objective: str, limit: int
) -> tuple[str, dict[str, Any], Parts]:
    """All rows of a file or a folder, or of the part of it that is for testing."""
    goal: Objective | None = None if objective else objective_for(model)
    name, options = named(objective if goal is None else goal.name)
    _check_head(model, name)
    if isinstance(goal, Classification):
        options = {"kind": goal.kind}
    columns = changed(changes)
    wrong = sorted({"train", "valid", "test"} & set(columns))
    if wrong:
        raise ValueError(f"{wrong[0]} is an option of recipes; the data to judge on stands beside the model")
    recipe = Recipe(data={**columns, "train": data, **({"limit": limit} if limit else {})})
    try:
        parts = parts_of(recipe, KINDS[name], classes=False, share=False)
    except ValueError as error:
        raise ValueError(str(error).replace("data.train: ", f"{data}: ")) from None
    parts.labels = _labels(model, KINDS[name], options)
    return name, options, parts


def _check_head(model: Model, name: str) -> None:
    head = head_kind(model)
    if head not in (None, KINDS[name].head):
        raise ValueError(
            f"the objective {name!r} needs a model with the head {KINDS[name].head!r}; {model.name or 'this one'} has "
            f"{head!r}"
        )


def _labels(model: Model, kind: Kind, options: Mapping[str, Any]) -> Labels | None:
    if kind.label is None or options.get("kind") == "regression" or not model.labels:
        return None
    return Labels(model.labels[i] for i in sorted(model.labels))


@contextmanager
def _beams(model: Model, beams: int) -> Iterator[None]:
    """Within, the model writes with so many beams."""
    if beams < 0:
        raise ValueError(f"beams is {beams}; allowed: 1 and more")
    before = model.generation
    if beams:
        model.generation = {**before, "num_beams": beams}
    try:
        yield
    finally:
        model.generation = before
