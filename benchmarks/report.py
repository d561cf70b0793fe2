"""Results as sections of docs/performance.md, each under a heading of its own that may be written again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
SUMMARY, NOTES = "Goals, met and missed", "# Notes"
_END = rf"(?=^## |^{NOTES}$|\Z)"
_TABLE = "| goal | at least | measured | |\n|---|---|---|---|"


def write(heading: str, text: str, page: Path = PAGE) -> None:
    """Put `text` under "## heading" in place of what stands there, or behind all that was measured."""
    old, section = page.read_text(encoding="utf-8"), f"## {heading}\n\n{text.strip()}\n"
    found = re.search(rf"^## {re.escape(heading)}$.*?{_END}|(?=^{NOTES}$)", old, re.M | re.S)
    start, end = found.span() if found else (len(old), len(old))
    fresh = f"{old[:start].rstrip()}\n\n{section}" + (f"\n{old[end:]}" if old[end:] else "")
    temporary = page.with_suffix(".tmp")
    temporary.write_text(fresh, encoding="utf-8")
    os.replace(temporary, page)


def summarise(page: Path = PAGE) -> None:
    """Put the goals of all sections together under one heading, so that none of their numbers is copied by hand."""
    lines = ["| section | goal | at least | measured | |", "|---|---|---|---|---|"]
    for heading, text in re.findall(rf"^## (.+?)$(.*?){_END}", page.read_text(encoding="utf-8"), re.M | re.S):
        for table in text.split(_TABLE)[1:]:
            rows = re.match(r"(?:\n\|.*)*", table)
            assert rows is not None
            lines += [f"| {heading} {row}" for row in rows[0].split("\n")[1:]]
    met, count = sum("| met |" in line for line in lines), len(lines) - 2
    write(
        SUMMARY,
        f"{met} of {count} are met; each section has its command, and what it was measured beside.\n\n"
        + "\n".join(lines),
        page,
    )


@dataclass(frozen=True)
class Goal:
    """A number that is wanted to be at least so large, what it is, and what keeps it from there if it is less."""

    name: str
    least: float
    found: float | None
    why: str = ""

    def row(self) -> str:
        """A row of the table."""
        if self.found is None:
            return f"| {self.name} | {self.least:g} | | not measured |"
        verdict = "met" if self.found >= self.least else f"missed{': ' if self.why else ''}{self.why}"
        return f"| {self.name} | {self.least:g} | {self.found:.2f} | {verdict} |"


def goals(found: Sequence[Goal]) -> str:
    """A table of goals, each met or missed."""
    return "\n".join([_TABLE, *(goal.row() for goal in found)])
