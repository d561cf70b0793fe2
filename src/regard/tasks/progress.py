"""A progress bar for work that turns out to be long."""

from __future__ import annotations

import sys
import time
from typing import Any

PATIENCE = 2.0
"""Seconds of work before a bar appears."""


class Meter:
    """Counts finished items; shows a bar on stderr after two seconds, on a terminal only unless `wanted` says so."""

    def __init__(self, title: str, total: int | None, wanted: bool | None = None):
        self.title, self.total, self.done = title, total, 0
        self.shown = sys.stderr.isatty() if wanted is None else wanted
        self.start = time.monotonic()
        self.bar: Any = None

    def advance(self, count: int = 1) -> None:
        """Count items that are finished."""
        self.done += count
        self._show(self.done)

    def partly(self, count: float) -> None:
        """Show that beyond finished items, this much of those in work is done."""
        self._show(self.done + count)

    def _show(self, done: float) -> None:
        if not self.shown:
            return
        if self.bar is None:
            if time.monotonic() - self.start < PATIENCE or done == self.total:
                return
            self._open()
        self.bar.update(self.task, completed=done)

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(self.title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("", total=self.total)
        self.bar.start()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
