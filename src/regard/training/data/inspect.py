"""What is in a data set and what looks wrong with it, before any training: `inspect_data("train.csv")`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regard.extras import need
from regard.training.data.clean import as_rows, joined
from regard.training.data.columns import Column, Finding, histogram, look_at, percentiles
from regard.training.data.duplicates import firsts, near_duplicates
from regard.training.data.folders import split_of
from regard.training.data.read import Source, read_rows
from regard.training.data.rows import Rows
from regard.training.data.split import leaks

MOST_COMPARED = 500_000
"""So many rows are searched for near duplicates; of more, the first ones."""

MOST_OPENED = 5000
"""So many images or sounds are opened; of more, some spread over all."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A data set as it was found; `findings` are about whole rows, those of a column are with it."""

    source: str
    rows: int
    columns: list[Column] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    texts: Rows | None = field(default=None, repr=False)

    def all_findings(self) -> list[tuple[str, Finding]]:
        """(column or "", finding), the worst first."""
        found = [("", one) for one in self.findings]
        found += [(column.name, one) for column in self.columns for one in column.findings]
        return sorted(found, key=lambda pair: ("bad", "maybe", "note").index(pair[1].level))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "source": self.source,
            "rows": self.rows,
            "columns": [asdict(column) for column in self.columns],
            "findings": [asdict(finding) for finding in self.findings],
        }


def inspect_data(source: Source, *, near: float | None = 0.8, **reading: Any) -> Report:
    """Look at a file, folder or data set; `reading` are options of `read_rows`. What cannot be read at all raises
    ValueError; all else that is wrong is in the report. `near` None leaves out the search for near duplicates."""
    findings: list[Finding] = []
    rows = as_rows(_read(source, reading, findings))
    name = rows.source or ("" if isinstance(source, Mapping) or not isinstance(source, (str, Path)) else str(source))
    if not len(rows):
        return Report(source=name, rows=0, findings=[*findings, Finding("bad", "there are no rows", 0)])
    columns = []
    for column in rows.column_names:
        if column in ("image", "audio") and isinstance(rows.column(column)[0], str):
            columns.append(_files(column, [str(path) for path in rows.column(column)]))
        else:
            columns.append(look_at(column, rows.column(column)))
    findings += _repeats(rows, columns, near)
    findings += _pairs(rows, columns)
    findings += _parts(rows, columns, near)
    if len(rows) < 50:
        findings.append(Finding("note", f"only {len(rows)} rows", 1))
    return Report(source=name, rows=len(rows), columns=columns, findings=findings, texts=rows)


def _read(source: Source, reading: Mapping[str, Any], findings: list[Finding]) -> Any:
    try:
        rows = read_rows(source, tolerant=True, **reading)
    except ValueError as error:
        if "is not UTF-8" not in str(error) or reading.get("encoding"):
            raise
        findings.append(Finding("bad", f"{error}; shown here as cp1252", 1))
        rows = read_rows(source, tolerant=True, **{**reading, "encoding": "cp1252"})
    problems = getattr(rows, "problems", [])
    findings += [Finding("bad", problem, 1) for problem in problems[:10]]
    if len(problems) > 10:
        findings.append(Finding("bad", "more lines like these", len(problems) - 10))
    return rows


def _of_kind(columns: Sequence[Column], *kinds: str) -> list[str]:
    return [column.name for column in columns if column.kind in kinds]


def _repeats(rows: Rows, columns: Sequence[Column], near: float | None) -> list[Finding]:
    """Rows and texts that are there twice, and the same text with another class."""
    found: list[Finding] = []
    content = [name for name in rows.column_names if name not in _of_kind(columns, "id", "empty")]
    telling = any(column.kind not in ("class", "integer", "number", "id", "empty") for column in columns)
    if content and (telling or len(content) > 3):
        again = [i for i, first in enumerate(firsts(joined(rows, content))) if first != i]
        if again:
            found.append(Finding("maybe", "rows the same as an earlier one", len(again), tuple(again[:5])))
    texts = _of_kind(columns, "text")
    classes = [c.name for c in columns if c.kind == "class" and not all(map(split_of, c.facts["classes"]))]
    if not texts:
        return found
    values = joined(rows, texts)
    first = firsts(values)
    again = [i for i, original in enumerate(first) if original != i and values[i].strip("\x1f \n")]
    which = " + ".join(texts)
    if again and len(content) > len(texts):
        found.append(Finding("maybe", f"{which} the same as in an earlier row", len(again), tuple(again[:5])))
    for name in classes:
        labels = rows.column(name)
        split = [i for i in again if str(labels[i]) != str(labels[int(first[i])])]
        if split and len(classes) <= 3:
            message = f"{which} the same as in an earlier row, but {name} differs"
            found.append(Finding("bad", message, len(split), tuple(split[:5])))
    if near is not None and any(c.facts["unit"] == "words" for c in columns if c.kind == "text"):
        gone = set(again)
        keep = [i for i in range(min(len(rows), MOST_COMPARED)) if i not in gone]
        close = near_duplicates([values[i] for i in keep], threshold=near)
        later = sorted({keep[pair.second] for pair in close})
        if later:
            message = f"{which} nearly the same as in an earlier row ({near:g} of its three-word runs and more)"
            found.append(Finding("maybe", message, len(later), tuple(later[:5])))
        if len(rows) > MOST_COMPARED:
            found.append(Finding("note", f"near duplicates were searched in the first {MOST_COMPARED:,} rows", 0))
    return found


def _pairs(rows: Rows, columns: Sequence[Column]) -> list[Finding]:
    """For two columns of text, such as a sentence and its translation: sides alike, or of very unequal length."""
    texts = _of_kind(columns, "text")
    if len(texts) != 2:
        return []
    left, right = ([str(v or "") for v in rows.column(name)] for name in texts)
    found = []
    same = [i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a.strip() and a == b]
    if same:
        found.append(Finding("maybe", f"{texts[0]} and {texts[1]} are the same", len(same), tuple(same[:5])))
    sizes = np.array([[len(a), len(b)] for a, b in zip(left, right, strict=True)], dtype=np.float64)
    real = (sizes > 0).all(1)
    if real.sum() > 20:
        ratio = np.log(sizes[real, 0] / sizes[real, 1])
        usual, spread = float(np.median(ratio)), float(np.median(np.abs(ratio - np.median(ratio))))
        far = np.flatnonzero(real)[np.abs(ratio - usual) > max(8 * spread, 0.7)]
        if len(far):
            message = f"{texts[0]} and {texts[1]} of very different length than elsewhere"
            found.append(Finding("maybe", message, len(far), tuple(far[:5].tolist())))
    return found


def _parts(rows: Rows, columns: Sequence[Column], near: float | None) -> list[Finding]:
    """Leaks between the parts that a column of train, valid, test makes."""
    found = []
    for column in columns:
        parts = list(column.facts.get("classes", ())) if column.kind == "class" else []
        if len(parts) < 2 or not all(map(split_of, parts)) or near is None:
            continue
        where = [str(value).strip() for value in rows.column(column.name)]
        parts.sort(key=lambda name: split_of(name) != "train")
        for name in _of_kind(columns, "text"):
            texts: dict[str, list[tuple[int, str]]] = {part: [] for part in parts}
            for i, value in enumerate(rows.column(name)):
                if where[i] in texts:
                    texts[where[i]].append((i, str(value or "")))
            for other in parts[1:]:
                leaking = leaks([text for _, text in texts[parts[0]]], [text for _, text in texts[other]], near=near)
                if leaking:
                    numbers = tuple(texts[other][leak.row][0] for leak in leaking[:5])
                    message = f"{other} has {name} that {parts[0]} has too, to the letter or nearly"
                    found.append(Finding("bad", message, len(leaking), numbers))
    return found


# images and sounds


def _files(name: str, paths: Sequence[str]) -> Column:
    some = range(len(paths)) if len(paths) <= MOST_OPENED else np.linspace(0, len(paths) - 1, MOST_OPENED).astype(int)
    measures: dict[str, list[float]] = {}
    kinds: Counter[str] = Counter()
    bad: list[int] = []
    seen: dict[bytes, int] = {}
    again: list[int] = []
    measure = _image if name == "image" else _sound
    reason = ""
    for i in map(int, some):
        try:
            data = Path(paths[i]).read_bytes()
            facts, kind = measure(paths[i])
        except (ValueError, OSError) as error:
            bad.append(i)
            reason = reason or str(error)
            continue
        kinds[kind] += 1
        for key, value in facts.items():
            measures.setdefault(key, []).append(value)
        if seen.setdefault(hashlib.sha256(data).digest(), i) != i:
            again.append(i)
    findings = []
    if bad:
        findings.append(Finding("bad", f"cannot be read: {reason}", len(bad), tuple(bad[:5])))
    if again:
        findings.append(Finding("maybe", "the same file as an earlier one, byte by byte", len(again), tuple(again[:5])))
    if len(kinds) > 1:
        said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
        findings.append(Finding("note", f"of several kinds: {said}", sum(kinds.values()) - kinds.most_common(1)[0][1]))
    facts_: dict[str, Any] = {"kinds": dict(kinds), "opened": len(some)}
    facts_ |= {key: percentiles(np.array(values)) for key, values in measures.items()}
    if "seconds" in measures:
        facts_["total_seconds"] = sum(measures["seconds"])
        facts_ |= {"histogram": histogram(np.array(measures["seconds"])), "unit": "seconds"}
        silent = sum(value == 0 for value in measures["seconds"])
        if silent:
            findings.append(Finding("bad", "without a sample", silent))
    return Column(name=name, kind=name, filled=len(paths), distinct=len(set(paths)), facts=facts_, findings=findings)


def _image(path: str) -> tuple[dict[str, float], str]:
    from regard.preprocess.image_read import decode

    need("PIL.Image", "vision")
    picture = decode(path)
    return {"width": picture.width, "height": picture.height}, str(picture.mode)


def _sound(path: str) -> tuple[dict[str, float], str]:
    soundfile = need("soundfile", "audio")
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, TypeError) as error:
        raise ValueError(f"{path}: {str(error).rpartition(': ')[2]}") from None
    channels = "mono" if info.channels == 1 else f"{info.channels} channels"
    return {"seconds": info.frames / info.samplerate}, f"{info.samplerate} Hz {channels}"


# several parts


def compare(reports: Sequence[Report], *, near: float = 0.8) -> list[Finding]:
    """What is wrong between the parts of a data set: other columns, classes that only one has, rows in both."""
    found: list[Finding] = []
    for k, other in enumerate(reports):
        for first in reports[:k]:
            found += _between(first, other, near)
    return found


def _between(first: Report, other: Report, near: float) -> list[Finding]:
    if first.texts is None or other.texts is None:
        return []
    here, there = first.source, other.source
    missing = [name for name in first.texts.column_names if name not in other.texts.column_names]
    found = []
    if missing:
        found.append(Finding("bad", f"{there} lacks columns of {here}: {', '.join(missing)}", len(missing)))
    classes = {column.name: column.facts["classes"] for column in other.columns if column.kind == "class"}
    for column in first.columns:
        if column.kind != "class" or column.name not in classes:
            continue
        new = [name for name in classes[column.name] if name not in column.facts["classes"]]
        if new:
            said = ", ".join(map(repr, new[:5]))
            found.append(Finding("bad", f"{there} has values of {column.name} that {here} lacks: {said}", len(new)))
    shared = [name for name in _of_kind(first.columns, "text") if name in _of_kind(other.columns, "text")]
    for name in shared:
        left, right = ([str(v or "") for v in part.texts.column(name)] for part in (first, other) if part.texts)
        leaking = leaks(left, right, near=near)
        exact = [leak for leak in leaking if leak.exact]
        for which, some in (("the same as", exact), ("nearly the same as", [x for x in leaking if not x.exact])):
            if some:
                pairs = ", ".join(f"{leak.row} as {leak.of}" for leak in some[:3])
                message = f"{there} has {name} {which} in {here} (row {pairs} there)"
                found.append(Finding("bad", message, len(some), tuple(leak.row for leak in some[:5])))
    return found
