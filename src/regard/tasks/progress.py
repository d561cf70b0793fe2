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

    def partly(self, count: float, note: str = "") -> None:
        """Show that beyond finished items, this much of those in work is done; `note` says it in their own units."""
        self._show(self.done + count, note)

    def _show(self, done: float, note: str = "") -> None:
        if not self.shown:
            return
        if self.bar is None:
            if time.monotonic() - self.start < PATIENCE or done == self.total:
                return
            self._open()
        of = "" if self.total is None else f"/{self.total}"
        self.bar.update(self.task, completed=done, note=note or f"{int(done)}{of}")

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn(self.title), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
        self.bar = Progress(
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=2,
            speed_estimate_period=3600,  # steps may be many seconds apart
            get_time=time.monotonic,
        )
        self.task = self.bar.add_task("", total=self.total, note="")
        self.bar.tasks[0].start_time = self.start
        self.bar.start()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
