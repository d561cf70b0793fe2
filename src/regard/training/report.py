"""What a run says while it works: a bar with loss, speed and time left on a terminal, and records for the log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from regard.training.state import Progress as TrainProgress

if TYPE_CHECKING:
    from regard.training.folder import RunFolder


class Diverged(ValueError):
    """A loss or a gradient that is not finite."""


class Report:
    """The voice of a run; a device is asked for its losses only when a record is due."""

    def __init__(self, total: int, show: bool | None, store: RunFolder | None, leader: bool):
        self.total, self.store, self.leader = total, store, leader
        self.bar_wanted = leader and (sys.stderr.isatty() if show is None else show)
        self.lines_wanted = leader and not self.bar_wanted and show is None and store is not None
        self.records: list[dict[str, Any]] = []
        self.last: tuple[int, int, float] = (0, 0, 0.0)
        self.bar: Any = None
        self.board = _board(store) if leader else None

    @contextmanager
    def shown(self, progress: TrainProgress) -> Iterator[None]:
        """Within, the bar is on the screen, from where the run is."""
        self.last = (progress.tokens, progress.items, progress.seconds)
        if not self.bar_wanted:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task("", total=self.total, completed=progress.step)
        with self.bar:
            yield

    def step(self, progress: TrainProgress, loss: Any, rate: float, norm: torch.Tensor | None, every: int) -> None:
        """Note one step; every so often it becomes a record. Raises Diverged if the loss is not finite."""
        progress.pending.append(loss)
        if self.bar is not None:
            self.bar.update(self.task, completed=progress.step)
        if progress.step % every and progress.step != self.total:
            return
        mean = sum(float(x) for x in progress.pending) / len(progress.pending)
        progress.pending.clear()
        if not math.isfinite(mean):
            raise Diverged(f"the loss is {mean} at step {progress.step}: lower the learning rate or look at the data")
        now = (progress.tokens, progress.items, progress.seconds)
        tokens, items, seconds = (new - old for new, old in zip(now, self.last, strict=True))
        self.last = now
        what, speed = "tokens" if tokens else "rows", (tokens or items) / max(seconds, 1e-9)
        record = {"step": progress.step, "epoch": progress.epoch, "loss": mean, "learning_rate": rate}
        if norm is not None:
            record["grad_norm"] = float(norm)
        self._write({**record, f"{what}_per_second": round(speed, 1)})
        text = f"loss {mean:.4f}  {speed:,.0f} {what}/s"
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        elif self.lines_wanted and (progress.step == self.total or progress.step % (every * 10) == 0):
            left = progress.seconds / progress.step * (self.total - progress.step)
            print(f"step {progress.step}/{self.total}  {text}  {left:,.0f} s left", file=sys.stderr, flush=True)

    def evaluated(self, progress: TrainProgress, scores: Mapping[str, float], better: bool) -> None:
        """Note an evaluation."""
        self._write({"step": progress.step, "valid": dict(scores), "best": better})
        text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.say(f"step {progress.step}  validation: {text}{'  (best)' if better else ''}")
        if self.store is not None:
            self.store.draw()

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        elif self.lines_wanted:
            print(text, file=sys.stderr, flush=True)

    def done(self, progress: TrainProgress) -> None:
        """The last word."""
        if self.store is not None:
            self.store.draw()
        if self.board is not None:
            self.board.close()

    def _write(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if self.store is not None:
            self.store.log.write(record)
        if self.board is not None:
            values = {**record, **{f"valid/{k}": v for k, v in record.get("valid", {}).items()}}
            for name, value in values.items():
                if isinstance(value, (int, float)) and name not in ("step", "best"):
                    self.board.add_scalar(name, value, record["step"], time.time())


def _board(store: RunFolder | None) -> Any:
    """A TensorBoard writer into the run's folder, if TensorBoard is installed."""
    if store is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(store.path / "tensorboard"))
