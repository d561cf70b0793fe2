"""What is to be learnt: an objective, the rows to learn from, the rows to be judged on, and by which measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from regard.training.base import Dataset, Objective
from regard.training.metrics import Metric


@dataclass(frozen=True)
class Problem:
    """An objective with its data. `fingerprint` tells whether a run that goes on still has the same data.

    `labels` are the names of classes, `options` the training options that suit it, where nobody asks for others,
    `recipe` the recipe that it was built from, as TOML, to be kept beside the run.
    """

    objective: Objective
    train: Dataset
    valid: Dataset | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    fingerprint: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""


def with_valid(problem: Problem, rows: Dataset) -> Problem:
    """The same problem, judged on other rows."""
    return replace(problem, valid=rows)
