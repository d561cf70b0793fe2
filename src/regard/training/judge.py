"""A model on a file with the right answers: what `regard evaluate` prints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import regard
from regard.models.model import Model
from regard.training.build import READING, prepared, selected
from regard.training.data.labels import Labels
from regard.training.data.read import read_rows
from regard.training.evaluate import evaluate
from regard.training.kinds import KINDS
from regard.training.metrics import find_metrics
from regard.training.objectives.choose import objective_for
from regard.training.problem import Problem

WRITTEN = {"seq2seq": ("bleu", "rougeL"), "ctc": ("wer", "cer"), "question-answering": ("exact", "token_f1")}
"""Metrics of what is written, where none are named."""


def judge(
    ref: str | Model,
    data: Any,
    options: Mapping[str, Any] | None = None,
    *,
    metrics: Sequence[str] = (),
    objective: str = "",
    beams: int = 0,
    limit: int = 0,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Loss and metrics of a model on rows; `options` name columns and how to read them, as the recipe's [data] does.

    Gives {"rows", "loss", ..., "seconds"}. Raises ValueError for data that does not fit the model's head.
    """
    model = regard.load(ref) if isinstance(ref, str) else ref
    options = dict(options or {})
    rows = read_rows(data, **{key: options.pop(key) for key in READING if key in options})
    if limit and limit < len(rows):
        rows = selected(rows, np.linspace(0, len(rows) - 1, limit).astype(int))
    goal = KINDS[_known(objective)].make(model) if objective else objective_for(model)
    kind = KINDS[goal.name]
    labels = Labels(model.labels.values()) if kind.label is not None and len(model.labels) > 1 else None
    ready = prepared(kind, rows, model, labels, options)
    if beams:
        model.generation = {**model.generation, "num_beams": beams}
    heard = kind.head == "seq2seq-lm" and not getattr(model, "reads_words", True)
    usual = ("wer",) if heard else WRITTEN.get(goal.name, kind.metrics)
    start = time.perf_counter()
    problem = Problem(goal, ready, ready, metrics=find_metrics(tuple(metrics) or usual))
    scores = evaluate(model, problem, batch_size=batch_size)
    return {"rows": len(ready), **scores, "seconds": round(time.perf_counter() - start, 1)}


def _known(objective: str) -> str:
    if objective not in KINDS:
        raise ValueError(f"objective is {objective!r}; allowed: {', '.join(KINDS)}")
    return objective
