"""Whatever holds examples, as rows: `read_rows("train.csv")`, folders of images, aligned files, data in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from regard.training.data.files import encoding_of, head
from regard.training.data.folders import choose_split, folder_rows, split_of
from regard.training.data.rows import Rows
from regard.training.data.tables import BY, READERS, Reading, json_rows, json_value, line_rows, suffix, text_rows

if TYPE_CHECKING:  # looking at data needs no torch
    from regard.training.base import Dataset

Source = Any
"""A path, paths, paths by name, or rows: see `read_rows`."""

_OTHERS = {
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Feather",
    ".xlsx": "a spreadsheet",
    ".xls": "a spreadsheet",
    ".zip": "an archive",
    ".tar": "an archive",
    ".tgz": "an archive",
    ".7z": "an archive",
    ".pkl": "a pickle",
    ".pt": "a pickle",
}


def read_rows(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    split: str | None = None,
    by: str = "auto",
    delimiter: str | None = None,
    quoting: bool | None = None,
    encoding: str | None = None,
    pattern: str | None = None,
    limit: int | None = None,
    tolerant: bool = False,
) -> Any:
    """Rows of a file, a folder, several files, or a data set.

    Files: .txt, .csv, .tsv, .jsonl, .json, .conll, .fasta, .smi, each also with .gz. Folders: of images or sounds, by
    class or with texts; of one table. A list of files is read as one; {"source": file, "target": file} as aligned
    lines. A `datasets.Dataset`, or any sequence of mappings, is returned as it is.

    `columns` names those of a table without a header. `split` chooses where there are several. `by` cuts plain text:
    "paragraph" (at blank lines), "line", "file", or "auto": paragraphs if there are blank lines, else lines. The
    `delimiter` of .csv is found out. `quoting` says whether quotes hold fields together. `encoding` is UTF-8 or what a
    byte order mark says. `pattern` with named groups makes columns of the names of images and sounds. `limit` is in
    bytes. `tolerant` leaves out or cuts what does not fit and notes it in `Rows.problems`.

    Raises ValueError that names the file and line, and what is allowed.
    """
    if by not in BY:
        raise ValueError(f"by is {by!r}; allowed: {', '.join(map(repr, BY))}")
    how = Reading(
        columns=columns,
        by=by,
        delimiter=delimiter,
        quoting=quoting,
        encoding=encoding,
        limit=limit,
        tolerant=tolerant,
    )
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return folder_rows(path, how, split=split, pattern=pattern)
        return _file(path, how, split)
    if isinstance(source, Mapping):
        if source and all(isinstance(value, (str, os.PathLike)) for value in source.values()):
            return _aligned(source, how)
        return source[choose_split(list(source), split, "the data set")]  # a DatasetDict
    if isinstance(source, (list, tuple)) and source and all(isinstance(s, (str, os.PathLike)) for s in source):
        return _joined([_file(Path(path), how, split) for path in source])
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        if len(source) and not isinstance(source[0], Mapping):
            raise ValueError(f"row 0 is {str(source[0])[:80]!r}; allowed: rows that are mappings, {{'text': ...}}")
        return source
    raise ValueError(
        f"a {type(source).__name__} is no data; allowed: a file, a folder, files by name, or a sequence of mappings"
    )


def iter_rows(
    path: str | os.PathLike[str], *, by: str = "auto", encoding: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of one file, one at a time, for files that do not fit in memory."""
    if by not in BY:
        raise ValueError(f"by is {by!r}; allowed: {', '.join(map(repr, BY))}")
    return _reader(Path(path))(path, Reading(by=by, encoding=encoding))


def _reader(path: Path) -> Any:
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}")
    ending = suffix(path)
    if ending in READERS:
        return READERS[ending]
    if ending in _OTHERS:
        raise ValueError(
            f"{path} is {_OTHERS[ending]}, which is not read; allowed: {', '.join(READERS)}, each also with .gz, or "
            f"a datasets.Dataset opened by you"
        )
    encoding_of(head(path), path)  # raises for what is no text
    return text_rows


def _file(path: Path, how: Reading, split: str | None) -> Rows:
    how = replace(how, problems=[])
    reader = _reader(path)
    if reader is json_rows:
        value = json_value(path, how)
        if isinstance(value, dict) and value and all(isinstance(v, list) and split_of(k) for k, v in value.items()):
            value = value[choose_split(list(value), split, path)]
        rows = json_rows(path, how, value)
    else:
        rows = reader(path, how)
    return Rows.of(rows, source=str(path), problems=how.problems)


def _joined(parts: list[Rows]) -> Rows:
    first = parts[0]
    for part in parts[1:]:
        if set(part.column_names) != set(first.column_names):
            raise ValueError(
                f"{part.source} has the columns {', '.join(part.column_names)}, but {first.source} has "
                f"{', '.join(first.column_names)}"
            )
    columns = {name: [value for part in parts for value in part.column(name)] for name in first.column_names}
    problems = [problem for part in parts for problem in part.problems]
    return Rows(columns, source=first.source, problems=problems)


def _aligned(files: Mapping[str, Any], how: Reading) -> Rows:
    columns = {name: line_rows(path, how) for name, path in files.items()}
    counts = {name: len(lines) for name, lines in columns.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{files[name]} has {count:,}" for name, count in counts.items())
        how.wrong(f"aligned files need as many lines each: {said}")
        shortest = min(counts.values())
        columns = {name: lines[:shortest] for name, lines in columns.items()}
    return Rows(columns, source=", ".join(map(str, files.values())), problems=how.problems)


def read_splits(source: Source, **options: Any) -> dict[str, Dataset]:
    """All splits of a folder with train, valid and test parts, or of a DatasetDict, by name."""
    if isinstance(source, Mapping):
        names = [str(name) for name in source]
    else:
        inner = sorted(path.name for path in Path(cast("str", source)).iterdir())
        names = sorted({split for split in map(split_of, inner) if split})
    if not names:
        raise ValueError(f"{source} has no parts called train, valid or test")
    return {name: read_rows(source, split=name, **options) for name in names}
