"""`Rows`: what a file held, by column, and given out as dicts by number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np


class Rows(Sequence[dict[str, Any]]):
    """A list of rows with the same columns; a value that a row lacks is None.

    Kept by column, which takes a fraction of the memory of dicts. `problems` is what was odd while reading.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], *, source: str = "", problems: Sequence[str] = ()):
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"columns differ in length: {', '.join(f'{n} {k}' for n, k in sizes.items())}")
        self._columns = dict(columns)
        self._count = next(iter(sizes.values()), 0)
        self.source, self.problems = source, list(problems)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], *, source: str = "", problems: Sequence[str] = ()) -> Rows:
        """Rows from mappings, which need not have the same keys. `problems` may grow while `rows` are read."""
        columns: dict[str, list[Any]] = {}
        count = 0
        for row in rows:
            for name, value in row.items():
                values = columns.setdefault(name, [])
                if len(values) < count:
                    values.extend([None] * (count - len(values)))
                values.append(value)
            count += 1
        for values in columns.values():
            values.extend([None] * (count - len(values)))
        return cls(columns, source=source, problems=problems)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in the order of the file."""
        return list(self._columns)

    def column(self, name: str) -> Sequence[Any]:
        """All values of a column; ValueError, naming those there are, for an unknown one."""
        if name not in self._columns:
            where = f"{self.source} has" if self.source else "there is"
            raise ValueError(f"{where} no column {name!r}; there are {', '.join(map(repr, self._columns)) or 'none'}")
        return self._columns[name]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = list(self._columns)
        for values in zip(*self._columns.values(), strict=True):
            yield dict(zip(names, values, strict=True))

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | Rows:
        if isinstance(index, slice):
            return self.select(range(*index.indices(self._count)))
        if not -self._count <= index < self._count:
            raise IndexError(f"row {index} of {self._count} rows")
        return {name: values[index] for name, values in self._columns.items()}

    def select(self, indices: Iterable[int]) -> Rows:
        """The rows of these numbers, in their order."""
        chosen = [int(i) for i in indices]
        return self._with({name: [values[i] for i in chosen] for name, values in self._columns.items()})

    def renamed(self, names: Mapping[str, str]) -> Rows:
        """Columns under other names: {"sentence": "text"}."""
        for name in names:
            self.column(name)
        new = [names.get(name, name) for name in self._columns]
        if len(set(new)) < len(new):
            raise ValueError(f"two columns would have one name: {', '.join(new)}")
        return self._with(dict(zip(new, self._columns.values(), strict=True)))

    def with_column(self, name: str, values: Sequence[Any] | np.ndarray) -> Rows:
        """A column more, or another in its place."""
        return self._with({**self._columns, name: values.tolist() if isinstance(values, np.ndarray) else values})

    def _with(self, columns: Mapping[str, Sequence[Any]]) -> Rows:
        return Rows(columns, source=self.source, problems=self.problems)

    def __repr__(self) -> str:
        return f"Rows({self._count:,} rows, columns {', '.join(self._columns)})"


def column_of(rows: Any, name: str) -> list[Any]:
    """The values of a column of any sequence of mappings; ValueError names the first row that lacks it."""
    if isinstance(rows, Rows):
        return list(rows.column(name))
    if name in getattr(rows, "column_names", ()):  # a datasets.Dataset, which decodes whole rows otherwise
        return list(rows[name])
    found = []
    for i in range(len(rows)):
        row = rows[i]
        if name not in row:
            raise ValueError(f"row {i} has no {name!r}; it has {', '.join(map(repr, row))}")
        found.append(row[name])
    return found
