"""Classes that are ranges of a number: sentiment from a rating, without another file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from regard.training.data.clean import as_rows
from regard.training.data.labels import number
from regard.training.data.rows import Rows, column_of


def by_ranges(rows: Any, wanted: Mapping[str, Any]) -> tuple[Rows, np.ndarray]:
    """Rows with a column "label" more, and their numbers; what lies in no range is left out.

    `wanted` is {"column": "rating", "classes": {"negative": [-4, -0.5], "positive": [0.5, 4]}}; both ends belong to a
    range, and the order of the classes is that of their numbers. Raises ValueError for ranges that overlap, and naming
    the row of what is no number.
    """
    ranges = _ranges(wanted)
    column = str(wanted["column"])
    values = [number(value, i, column) for i, value in enumerate(column_of(rows, column))]
    labels = [next((name for name, (low, high) in ranges.items() if low <= x <= high), None) for x in values]
    kept = np.array([i for i, label in enumerate(labels) if label is not None], dtype=np.int64)
    return as_rows(rows).select(kept).with_column("label", [labels[i] for i in kept]), kept


def _ranges(wanted: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    classes = wanted.get("classes")
    if set(wanted) != {"column", "classes"} or not isinstance(classes, Mapping) or len(classes) < 2:
        raise ValueError(
            f"label is {dict(wanted)}; allowed: a column's name, or the table {{column = ..., classes = {{name = "
            f"[low, high], ...}}}} of two classes and more"
        )
    found: dict[str, tuple[float, float]] = {}
    for name, ends in classes.items():
        plain = isinstance(ends, (list, tuple)) and len(ends) == 2
        if not plain or not all(isinstance(e, (int, float)) for e in ends) or not ends[0] <= ends[1]:
            raise ValueError(f"label.classes.{name} is {ends!r}; allowed: [lowest, highest], two rising numbers")
        for other, (low, high) in found.items():
            if ends[0] <= high and low <= ends[1]:
                raise ValueError(f"label.classes.{name} is {list(ends)}, which overlaps {other}, {[low, high]}")
        found[str(name)] = (float(ends[0]), float(ends[1]))
    return found
