"""Folders of images and sounds as rows: by class, with a table of captions or transcripts, or with texts beside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from regard.training.data.rows import Rows
from regard.training.data.tables import READERS, Reading, suffix

IMAGES = frozenset(".png .jpg .jpeg .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .jp2 .avif".split())
SOUNDS = frozenset(".wav .flac .ogg .oga .opus .mp3 .aiff .aif .au".split())
TABLES = frozenset(".csv .tsv .jsonl".split())
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
"""A split, and what it is called in names of files and folders."""

MOST_FILES = 5_000_000
_FILE_COLUMNS = "file_name filename file path image audio audio_filepath image_path wav".split()
_TEXT_COLUMNS = "text transcript transcription sentence normalized_text caption".split()


def files_under(folder: Path) -> list[Path]:
    """Files at any depth, sorted, without hidden ones; links to folders are not followed."""
    found: list[Path] = []
    for here, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(here, name) for name in names if not name.startswith(".")]
        if len(found) > MOST_FILES:
            raise ValueError(f"{folder} has more than {MOST_FILES:,} files")
    return sorted(found)


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name begins with: "val-00.jsonl.gz" -> "valid"."""
    word = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
    return next((split for split, names in SPLITS.items() if word in names), None)


def choose_split(names: Sequence[str], split: str | None, where: object) -> str:
    """The one of `names` that is a split, by its own or a usual name; ValueError lists them where it is not said."""
    if split is None:
        if len(names) == 1:
            return names[0]
        raise ValueError(f"{where} holds {', '.join(names)}; say which with split, such as split={names[0]!r}")
    fitting = [n for n in names if n == split] or [n for n in names if split_of(n) and split_of(n) == split_of(split)]
    if len(fitting) != 1:
        raise ValueError(f"split is {split!r}; {where} holds {', '.join(names)}")
    return fitting[0]


def folder_rows(folder: Path, how: Reading, *, split: str | None, pattern: str | None) -> Rows:
    """Rows of a folder of images, sounds, or tables; ValueError says what was looked for where there is nothing."""
    inner = sorted(p.name for p in folder.iterdir() if p.is_dir() and split_of(p.name))
    if inner and (split is not None or len(inner) > 1) and not _has_table(folder):
        folder = folder / choose_split(inner, split, folder)
    files = files_under(folder)
    media = [path for path in files if path.suffix.lower() in IMAGES | SOUNDS]
    if not media:
        return _tables(folder, files, how, split)
    kinds = {"image" if path.suffix.lower() in IMAGES else "audio" for path in media}
    if len(kinds) > 1:
        raise ValueError(f"{folder} has images and sounds side by side; pass a folder with one of them")
    kind = kinds.pop()
    table = _has_table(folder, split)
    if table is not None:
        rows = _joined(folder, table, kind, media, how)
    elif transcripts := [path for path in files if path.name.endswith(".trans.txt")]:
        rows = _librispeech(transcripts, how)
    elif beside := [path for path in media if path.with_suffix(".txt").is_file()]:
        rows = _beside(beside, kind, how)
        if len(beside) < len(media):
            how.wrong(f"{folder}: {len(media) - len(beside)} of {len(media)} files have no .txt of the same name")
    else:
        rows = _by_class(folder, media, kind)
    return rows if pattern is None else _named(rows, kind, pattern)


def _by_class(folder: Path, media: list[Path], kind: str) -> Rows:
    """The class is the first folder below; a single one tells nothing."""
    labels = [path.relative_to(folder).parts[0] if path.parent != folder else None for path in media]
    columns: dict[str, list[Any]] = {kind: [str(path) for path in media]}
    if len(set(labels)) > 1:
        columns["label"] = labels
    return Rows(columns, source=str(folder))


def _named(rows: Rows, kind: str, pattern: str) -> Rows:
    """Columns from the names of files, one for each named group of a regular expression."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is {pattern!r}, no regular expression: {error}") from None
    if not expression.groupindex:
        raise ValueError(f"pattern is {pattern!r}; allowed: one with named groups, such as '(?P<label>[0-9])_.*'")
    stems = [Path(path).stem for path in rows.column(kind)]
    found = [expression.match(stem) for stem in stems]
    if None in found:
        raise ValueError(f"pattern {pattern!r} does not fit the name {stems[found.index(None)]!r}")
    for name in expression.groupindex:
        rows = rows.with_column(name, [match.group(name) for match in found if match])
    return rows


def _has_table(folder: Path, split: str | None = None) -> Path | None:
    """metadata.csv (.tsv, .jsonl), or the only table in the folder, or the one of the split."""
    tables = sorted(path for path in folder.iterdir() if path.is_file() and suffix(path) in TABLES)
    if split is not None and len(tables) > 1:
        tables = [path for path in tables if split_of(path.name) == split_of(split)] or tables
    named = [path for path in tables if path.name.startswith("metadata.")]
    return named[0] if named else tables[0] if len(tables) == 1 else None


def _joined(folder: Path, table: Path, kind: str, media: list[Path], how: Reading) -> Rows:
    """A table's rows, its column of file names made into paths; a transcript is called text."""
    rows = Rows.of(READERS[suffix(table)](table, how), source=str(table), problems=how.problems)
    column = next((name for name in (*_FILE_COLUMNS, *rows.column_names) if name in rows.column_names), None)
    if column is None:
        raise ValueError(f"{table} has no rows")
    by_name = {path.name: str(path) for path in media}
    known = {str(path) for path in media}
    paths: list[str] = []
    keep: list[int] = []
    for i, name in enumerate(map(str, rows.column(column))):
        path = os.path.normpath(folder / name)
        path = path if path in known else by_name.get(name, "")
        if path:
            paths.append(path)
            keep.append(i)
        elif os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"{table}: row {i} names {name!r}, which is not in {folder}")
        else:
            how.wrong(f"{table}: row {i} names {name!r} in its column {column!r}, and there is no such file")
    if not paths:
        raise ValueError(f"{table}: no value of the column {column!r} is a file in {folder}")
    columns = {kind: paths, **{n: rows.select(keep).column(n) for n in rows.column_names if n not in (column, kind)}}
    found = Rows(columns, source=str(table), problems=how.problems)
    text = next((name for name in _TEXT_COLUMNS if name in columns), None)
    return found.renamed({text: "text"}) if text not in (None, "text") else found  # type: ignore[dict-item]


def _librispeech(transcripts: list[Path], how: Reading) -> Rows:
    """LibriSpeech: `speaker/chapter/speaker-chapter.trans.txt` has `speaker-chapter-number TEXT` lines."""

    def rows() -> Iterator[dict[str, Any]]:
        for path in transcripts:
            for line in how.lines(path):
                name, _, text = line.strip().partition(" ")
                if not name:
                    continue
                sound = next(
                    (s for s in (path.parent / f"{name}{end}" for end in (".flac", ".wav")) if s.is_file()), None
                )
                if sound is None or Path(name).name != name:
                    how.wrong(f"{path}: there is no sound {name}.flac or .wav beside it")
                    continue
                yield {"audio": str(sound), "text": text, "id": name, "speaker": name.split("-")[0]}

    return Rows.of(rows(), source=str(transcripts[0].parent), problems=how.problems)


def _beside(media: list[Path], kind: str, how: Reading) -> Rows:
    texts = ["".join(how.lines(path.with_suffix(".txt"))).strip() for path in media]
    return Rows(
        {kind: [str(path) for path in media], "text": texts}, source=str(media[0].parent), problems=how.problems
    )


def _tables(folder: Path, files: list[Path], how: Reading, split: str | None) -> Rows:
    tables = [path for path in files if path.parent == folder and suffix(path) in READERS and suffix(path) != ".md"]
    splits = sorted({split_of(path.name) or "" for path in tables})
    if len(tables) > 1 and "" not in splits and len(splits) == len(tables):
        chosen = choose_split(splits, split, folder)
        tables = [path for path in tables if split_of(path.name) == chosen]
    elif split is not None:
        tables = [path for path in tables if split_of(path.name) == (split_of(split) or split)]
    if len(tables) != 1:
        held = ", ".join(path.name for path in (tables or files)[:8]) or "nothing"
        raise ValueError(
            f"{folder} holds {held}{' ...' if len(tables or files) > 8 else ''}; allowed: images, sounds, or one table"
            f"{'' if split is None else f' for the split {split!r}'}; name the file itself"
        )
    return Rows.of(READERS[suffix(tables[0])](tables[0], how), source=str(tables[0]), problems=how.problems)
