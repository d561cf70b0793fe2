"""What a column of a table holds: its kind, its statistics, and what looks odd in it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from regard.training.data.duplicates import words_of
from regard.training.data.folders import split_of
from regard.training.data.labels import missing
from regard.training.data.tables import to_number

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)
MOST_CLASSES = 100
BARS = 12

_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?")
_HTML = re.compile(r"&(?:[a-z]{2,8}|#\d+);|\s#\d{2,4};|</?[a-z]{1,10}\s*/?>")
_SIGNS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("bad", "text that was decoded wrongly once (the character U+FFFD)", re.compile("\ufffd")),
    ("bad", "text that looks like UTF-8 read as another encoding (Ã© for é)", re.compile("[ÃÂ][\x80-\xbf]|â€|ðŸ")),
    ("maybe", "control characters", re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")),
    (
        "maybe",
        "remains of HTML (&amp;, #39;, <br>)",
        re.compile(r"&(?:[a-z]{2,8}|#\d+);|\s#\d{2,4};|</?[a-z]{1,10}\s*/?>|&lt;"),
    ),
    ("maybe", "invisible characters (zero width, byte order mark)", re.compile("[\u200b\u2060\ufeff]")),
)
_ID = re.compile(r"(^|_)(id|idx|uid|uuid|guid|key)$")
_SPACES = re.compile(r"\s\s|^\s|\s$")


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong: how bad ("bad", "maybe", "note"), what, how many rows, and some of their numbers."""

    level: str
    message: str
    count: int
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as it was found. `kind`: empty, class, integer, number, date, id, text, list, object."""

    name: str
    kind: str
    filled: int
    distinct: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def look_at(name: str, values: Sequence[Any]) -> Column:
    """A column's kind and what there is to say of it."""
    there = [i for i, value in enumerate(values) if not missing(value) and not _blank(value)]
    gone = len(values) - len(there)
    findings = []
    if gone and there:
        first = sorted(set(range(len(values))) - set(there))[:5] if gone < len(values) else []
        findings.append(Finding("maybe", "empty", gone, tuple(first)))
    if not there:
        return Column(name=name, kind="empty", filled=0, findings=[Finding("bad", "nothing in it", len(values))])
    if any(isinstance(values[i], (dict, list, tuple)) for i in there):
        return _nested(name, values, there, findings)
    texts = {i: str(values[i]) for i in there}
    distinct = len(set(texts.values()))
    kind, seen = _kind(name, texts, distinct)
    facts, more = _LOOKS[kind](texts, seen)
    return Column(name=name, kind=kind, filled=len(there), distinct=distinct, facts=facts, findings=[*findings, *more])


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _kind(name: str, texts: dict[int, str], distinct: int) -> tuple[str, dict[int, float]]:
    """The kind of a column, and its numbers if it has some."""
    numbers = {i: value for i, text in texts.items() if (value := to_number(text)) is not None}
    lengths = [len(text) for text in texts.values()]
    repeats = distinct <= MOST_CLASSES and distinct <= max(2, len(texts) // 5)
    if len(numbers) >= 0.98 * len(texts):
        whole = all(value.is_integer() for value in numbers.values() if math.isfinite(value))
        written = not any("." in text or "e" in text.lower() for text in texts.values())
        if repeats and distinct <= 20 and whole and written:
            return "class", numbers
        if whole and written and distinct == len(texts) and _rising(list(numbers.values())):
            return "id", numbers
        return ("integer" if whole and written else "number"), numbers
    if sum(bool(_DATE.fullmatch(text.strip())) for text in list(texts.values())[:1000]) >= min(len(texts), 1000) * 0.98:
        return "date", {}
    typical = float(np.percentile(lengths, 95))
    if repeats and typical <= 60:
        return "class", {}
    spaced = sum(" " in text.strip() for text in texts.values()) / len(texts)
    named = bool(_ID.search(name.lower())) and distinct > 0.5 * len(texts)
    alike = distinct == len(texts) > 5 and _identifiers(texts)
    if typical <= 60 and spaced < 0.02 and (named or alike):
        return "id", {}
    return "text", {}


def _identifiers(texts: dict[int, str]) -> bool:
    """Names and numbers, rather than words or molecules: only letters, digits and -_./: in them."""
    some = list(texts.values())[:1000]
    return sum(bool(re.fullmatch(r"[\w./:|-]+", text)) and not text.isalpha() for text in some) > 0.9 * len(some)


def _rising(values: list[float]) -> bool:
    return bool((np.diff(values) > 0).all()) if len(values) > 2 else False


# looks: (texts by row, numbers by row) -> (facts, findings)

_Look = Callable[[dict[int, str], dict[int, float]], tuple[dict[str, Any], list[Finding]]]


def _classes(texts: dict[int, str], numbers: dict[int, float]) -> tuple[dict[str, Any], list[Finding]]:
    counts = Counter(text.strip() for text in texts.values())
    ordered = dict(counts.most_common())
    findings = []
    most, least = max(counts.values()), min(counts.values())
    if len(counts) == 1:
        findings.append(Finding("maybe", f"always {next(iter(counts))!r}", 1))
    elif all(split_of(name) for name in counts):
        findings.append(Finding("note", "says to which part of the data a row belongs", 1))
    elif most > 10 * least or most > 0.9 * len(texts):
        rare = min(counts, key=lambda name: counts[name])
        common = max(counts, key=lambda name: counts[name])
        shares = f"{most:,} rows of {common!r}, {least:,} of {rare!r}"
        findings.append(Finding("maybe", f"unbalanced: {shares} (class_weights makes up for it)", 1))
    lowered = Counter(name.lower() for name in counts)
    if twice := [name for name, number in lowered.items() if number > 1]:
        findings.append(Finding("bad", f"classes that differ in capitals only, such as {twice[0]!r}", len(twice)))
    padded = [i for i, text in texts.items() if text != text.strip()]
    if padded:
        findings.append(Finding("maybe", "spaces around the name of a class", len(padded), tuple(padded[:5])))
    return {"classes": ordered}, findings


def _numbers(texts: dict[int, str], numbers: dict[int, float]) -> tuple[dict[str, Any], list[Finding]]:
    values = np.array(list(numbers.values()))
    finite = values[np.isfinite(values)]
    findings = []
    if odd := [i for i in texts if i not in numbers]:
        findings.append(Finding("bad", f"not a number, such as {texts[odd[0]][:30]!r}", len(odd), tuple(odd[:5])))
    if wild := [i for i, value in numbers.items() if not math.isfinite(value)]:
        findings.append(Finding("bad", "NaN or infinite", len(wild), tuple(wild[:5])))
    if not len(finite):
        return {}, findings
    facts = {
        "percentiles": percentiles(finite),
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "histogram": histogram(finite),
    }
    if len(finite) > 1 and facts["std"] == 0:
        findings.append(Finding("maybe", f"always {finite[0]:g}", 1))
    return facts, findings


def _texts(texts: dict[int, str], numbers: dict[int, float]) -> tuple[dict[str, Any], list[Finding]]:
    chars = np.array([len(text) for text in texts.values()])
    words = np.array([len(words_of(text)) for text in texts.values()])
    findings = []
    for level, what, sign in _SIGNS:
        if found := [i for i, text in texts.items() if sign.search(text)]:
            findings.append(Finding(level, what, len(found), tuple(found[:5])))
    if found := [i for i, text in texts.items() if not unicodedata.is_normalized("NFC", text)]:
        findings.append(Finding("note", "characters in pieces (not in NFC)", len(found), tuple(found[:5])))
    if found := [i for i, text in texts.items() if _SPACES.search(text)]:
        findings.append(Finding("note", "double spaces, or spaces at an end", len(found), tuple(found[:5])))
    rows = list(texts)
    far = max(20 * float(np.median(chars)), 1000.0)
    if long := [rows[k] for k in np.flatnonzero(chars > far)]:
        findings.append(
            Finding("maybe", f"far longer than the rest (over {far:,.0f} characters)", len(long), tuple(long[:5]))
        )
    if bare := [rows[k] for k in np.flatnonzero(words == 0)]:
        findings.append(Finding("maybe", "no letter and no digit", len(bare), tuple(bare[:5])))
    several = sum(len(text.split()) > 1 for text in texts.values())
    spaced = several > 0.1 * len(texts) or words.mean() > chars.mean() / 3  # or a script without spaces
    facts = {
        "chars": percentiles(chars),
        "words": percentiles(words),
        "total_words": int(words.sum()),
        "total_chars": int(chars.sum()),
        "histogram": histogram(words if spaced else chars),
        "unit": "words" if spaced else "chars",
        "letters": len(set().union(*list(texts.values())[:20_000])),
    }
    return facts, findings


def _dates(texts: dict[int, str], numbers: dict[int, float]) -> tuple[dict[str, Any], list[Finding]]:
    found: list[datetime] = []
    odd = []
    for i, text in texts.items():
        try:
            found.append(datetime.fromisoformat(text.strip().replace("Z", "+00:00")))
        except ValueError:
            odd.append(i)
    findings = [Finding("bad", f"no date, such as {texts[odd[0]][:30]!r}", len(odd), tuple(odd[:5]))] if odd else []
    if len({moment.tzinfo is None for moment in found}) > 1:
        return {}, [*findings, Finding("bad", "some dates have a time zone and some have none", len(found))]
    facts: dict[str, Any] = {"first": str(min(found)), "last": str(max(found))}
    steps = Counter(b - a for a, b in pairwise(found))
    if steps:
        usual, often = steps.most_common(1)[0]
        facts["step"] = str(usual)
        back = sum(number for step, number in steps.items() if step.total_seconds() < 0)
        if back:
            findings.append(Finding("note", "earlier than the row before", back))
        elif often > 0.5 * len(found) and often < len(found) - 1:
            findings.append(
                Finding("maybe", f"not {usual} after the row before (a gap, or twice)", len(found) - 1 - often)
            )
    return facts, findings


def _ids(texts: dict[int, str], numbers: dict[int, float]) -> tuple[dict[str, Any], list[Finding]]:
    seen: dict[str, int] = {}
    again = [i for i, text in texts.items() if seen.setdefault(text, i) != i]
    findings = [Finding("maybe", "the same as in an earlier row", len(again), tuple(again[:5]))] if again else []
    return {"examples": list(texts.values())[:3]}, findings


_LOOKS: dict[str, _Look] = {
    "class": _classes,
    "integer": _numbers,
    "number": _numbers,
    "text": _texts,
    "date": _dates,
    "id": _ids,
}


def _nested(name: str, values: Sequence[Any], there: list[int], findings: list[Finding]) -> Column:
    if all(isinstance(values[i], (list, tuple)) for i in there):
        sizes = np.array([len(values[i]) for i in there])
        facts: dict[str, Any] = {"items": percentiles(sizes), "histogram": histogram(sizes), "unit": "items"}
        single = Counter(one for i in there for one in values[i] if isinstance(one, str))
        if 0 < len(single) <= MOST_CLASSES < sizes.sum():
            facts["classes"] = dict(single.most_common())
        return Column(name=name, kind="list", filled=len(there), facts=facts, findings=findings)
    if all(isinstance(values[i], dict) for i in there):
        keys = Counter(key for i in there for key in values[i])
        return Column(name=name, kind="object", filled=len(there), facts={"keys": dict(keys)}, findings=findings)
    kinds = Counter(type(values[i]).__name__ for i in there)
    mixed = Finding("bad", f"values of several kinds: {', '.join(f'{n:,} {k}' for k, n in kinds.items())}", len(there))
    return Column(name=name, kind="object", filled=len(there), findings=[*findings, mixed])


def percentiles(values: np.ndarray) -> dict[str, float]:
    """{"0": smallest, "5": ..., "50": the median, ..., "100": largest}."""
    return {str(p): float(v) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def histogram(values: np.ndarray) -> list[tuple[float, float, int]]:
    """(from, to, how many); all beyond the 99th percentile is in the last. Whole numbers include `to`."""
    low, high = float(values.min()), float(np.percentile(values, 99))
    if high <= low:
        return [(low, float(values.max()), len(values))]
    whole = bool((values == np.round(values)).all())
    edges = np.linspace(low, high, BARS + 1)
    edges = np.unique(np.round(edges)) if whole else edges
    counts, _ = np.histogram(np.minimum(values, high), edges)
    ends = [*(edges[1:-1] - whole), float(values.max())]
    return [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], ends, counts, strict=True)]
