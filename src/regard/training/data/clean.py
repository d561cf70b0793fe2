"""Cleaning texts and leaving out what is too short, too long or there twice; every row that goes has its reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from regard.training.data.duplicates import firsts, near_duplicates, words_of
from regard.training.data.rows import Rows, column_of

FORMS = ("NFC", "NFKC", "NFD", "NFKD")

# Controls other than tab and line ends, marks of byte order and direction, invisible spaces, lone surrogates, and
# code points that are no characters. Joiners (U+200C, U+200D) stay: Persian, Hindi and emoji need them.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
_SPACES = re.compile(r"[^\S\n]+")
_AROUND = re.compile(r" ?\n ?")
_BLANK = re.compile(r"\n{3,}")


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is done to each text, and which are left out.

    `form` is a Unicode normal form, or None. `controls` removes what cannot be seen. `spaces` "lines" makes runs of
    blanks one space and keeps line breaks (at most one empty line); "all" makes line breaks spaces too; None changes
    nothing. Lengths are of the cleaned text; words as in `duplicates.words_of`.
    """

    form: str | None = "NFC"
    controls: bool = True
    spaces: str | None = "lines"
    min_chars: int = 1
    max_chars: int | None = None
    min_words: int = 0
    max_words: int | None = None

    def __post_init__(self) -> None:
        if self.form is not None and self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; allowed: {', '.join(FORMS)}, None")
        if self.spaces not in ("lines", "all", None):
            raise ValueError(f"spaces is {self.spaces!r}; allowed: 'lines', 'all', None")
        for name in ("chars", "words"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low < 0 or (high is not None and high < low):
                raise ValueError(f"min_{name} is {low} and max_{name} {high}; allowed: 0 <= min <= max")

    def __call__(self, text: str) -> str:
        """The cleaned text."""
        text = _ENDS.sub("\n", text)
        if self.controls:
            text = _CONTROLS.sub("", text)
        if self.form is not None:
            text = unicodedata.normalize(self.form, text)  # type: ignore[arg-type]
        if self.spaces == "all":
            return " ".join(text.split())
        if self.spaces == "lines":
            return _BLANK.sub("\n\n", _AROUND.sub("\n", _SPACES.sub(" ", text))).strip()
        return text

    def fault(self, text: str) -> str | None:
        """Why a cleaned text is left out, or None."""
        if len(text) < self.min_chars:
            return f"fewer than {self.min_chars} characters" if text else "empty"
        if self.max_chars is not None and len(text) > self.max_chars:
            return f"more than {self.max_chars} characters"
        if self.min_words or self.max_words is not None:
            count = len(words_of(text))
            if count < self.min_words:
                return f"fewer than {self.min_words} words"
            if self.max_words is not None and count > self.max_words:
                return f"more than {self.max_words} words"
        return None


@dataclass(frozen=True)
class Report:
    """What became of the rows: how many texts were `changed`, and reason -> numbers of the rows that went."""

    before: int
    changed: int = 0
    dropped: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Rows that are left."""
        return self.before - sum(len(rows) for rows in self.dropped.values())

    def __str__(self) -> str:
        why = ""
        for reason, rows in self.dropped.items():
            examples = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
            why += f"\n  dropped {len(rows):,}: {reason} (row {examples})"
        changed = f", {self.changed:,} changed" if self.changed else ""
        return f"kept {self.kept:,} of {self.before:,} rows{changed}{why}"


def clean(
    rows: Any, columns: Sequence[str] = ("text",), cleaning: Callable[[str], str] | None = None
) -> tuple[Rows, Report]:
    """Rows with cleaned texts in `columns`, without those that have a fault or no text in one of them; and a report."""
    cleaning = Cleaning() if cleaning is None else cleaning
    fault = cleaning.fault if isinstance(cleaning, Cleaning) else (lambda text: None if text else "empty")
    table = as_rows(rows)
    cleaned = {name: list(table.column(name)) for name in columns}
    dropped: dict[str, list[int]] = {}
    keep: list[int] = []
    changed = 0
    for i in range(len(table)):
        why, differs = None, False
        for name, values in cleaned.items():
            if not isinstance(values[i], str):
                why = f"no text in {name}"
                break
            text = cleaning(values[i])
            differs = differs or text != values[i]
            values[i] = text
            reason = fault(text)
            if reason is not None:
                why = reason if len(cleaned) == 1 else f"{name}: {reason}"
                break
        if why is None:
            keep.append(i)
            changed += differs
        else:
            dropped.setdefault(why, []).append(i)
    for name, values in cleaned.items():
        table = table.with_column(name, values)
    return table.select(keep), Report(len(table), changed, dropped)


def deduplicate(rows: Any, columns: Sequence[str] = ("text",), *, near: float | None = None) -> tuple[Rows, Report]:
    """Rows without those whose `columns` hold what an earlier row holds; and a report.

    With `near`, such as 0.8, rows also go that share so much with one that is kept (`duplicates.near_duplicates`).
    """
    table = as_rows(rows)
    texts = joined(table, columns)
    first = firsts(texts)
    keep = [i for i, original in enumerate(first) if original == i]
    dropped: dict[str, list[int]] = {"the same as an earlier row": [i for i, f in enumerate(first) if f != i]}
    if near is not None:
        close: dict[int, list[int]] = {}
        for pair in near_duplicates([texts[i] for i in keep], threshold=near):
            close.setdefault(keep[pair.second], []).append(keep[pair.first])
        gone: set[int] = set()
        for i in keep:
            if any(other not in gone for other in close.get(i, ())):
                gone.add(i)
        dropped[f"nearly the same as an earlier row ({near:g} and more)"] = sorted(gone)
        keep = [i for i in keep if i not in gone]
    return table.select(keep), Report(len(table), 0, {why: which for why, which in dropped.items() if which})


def joined(rows: Any, columns: Sequence[str]) -> list[str]:
    """The texts of some columns as one text a row."""
    if not columns:
        raise ValueError("columns is empty; allowed: the names of one or more columns")
    values = [column_of(rows, name) for name in columns]
    return ["\x1f".join("" if value is None else str(value) for value in row) for row in zip(*values, strict=True)]


def as_rows(rows: Any) -> Rows:
    """Any sequence of mappings as `Rows`."""
    return rows if isinstance(rows, Rows) else Rows.of(rows[i] for i in range(len(rows)))
