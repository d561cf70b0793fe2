"""Names of classes and their numbers, learnt from one split and held to in the others."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from regard.training.data.rows import column_of
from regard.training.data.tables import to_number

MOST = 100_000
"""More classes than that are no classes, but a column taken by mistake."""


class Labels:
    """Names of classes; the number of one is its place. Raises ValueError naming row and value for what is no class."""

    def __init__(self, names: Iterable[str]):
        self.names = tuple(str(name) for name in names)
        self._ids = {name: i for i, name in enumerate(self.names)}
        if len(self._ids) < len(self.names) or not self.names:
            raise ValueError(f"labels are {', '.join(self.names) or 'none'}; allowed: different names, one at least")
        if len(self.names) > MOST:
            raise ValueError(f"there are {len(self.names):,} labels; allowed: {MOST:,}")

    @classmethod
    def of(cls, values: Iterable[Any]) -> Labels:
        """The different values, numbers by size and then words by the alphabet."""
        return cls(sorted({_name(value) for value in values}, key=_by_size))

    @classmethod
    def of_column(cls, rows: Any, column: str) -> Labels:
        """Those of a column: the names that a `datasets.ClassLabel` knows, or else the values; lists count singly."""
        feature = (getattr(rows, "features", None) or {}).get(column)
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if names:
            return cls(names)
        found = []
        for i, value in enumerate(column_of(rows, column)):
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if missing(one):
                    raise ValueError(f"row {i} has no label: {column!r} is {value!r}")
                found.append(one)
        return cls.of(found)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"Labels({', '.join(self.names[:20])}{', ...' if len(self) > 20 else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Number -> name, as a model's config has them."""
        return dict(enumerate(self.names))

    def id(self, value: Any, row: int, column: str = "label") -> int:
        """The number of a class by its name, or by its number where the names are words (as in `datasets`)."""
        if missing(value):
            raise ValueError(f"row {row} has no label: {column!r} is {value!r}")
        found = self._ids.get(_name(value))
        if found is not None:
            return found
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self):
            return value
        near = difflib.get_close_matches(str(value), self.names, 1)
        known = ", ".join(self.names[:10]) + (", ..." if len(self) > 10 else "")
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"row {row}: {column!r} is {str(value)[:60]!r}, which is no known label ({known}){hint}")


def missing(value: Any) -> bool:
    """Whether this stands for nothing: None, an empty text, NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _by_size(name: str) -> tuple[int, float, str]:
    value = to_number(name)
    return (1, 0.0, name) if value is None or not math.isfinite(value) else (0, value, name)


def number(value: Any, row: int, column: str) -> float:
    """A value as a finite number; ValueError naming row and column."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"row {row}: {column!r} is {str(value)[:60]!r}; allowed: a number")
    return found


def label_list(value: Any, row: int, column: str) -> Sequence[Any]:
    """A value as a list of labels."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"row {row}: {column!r} is {str(value)[:60]!r}; allowed: a list of labels")
    return value
