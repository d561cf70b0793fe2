"""Runs of hidden words, written one after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regard.training.base import Batch, Row
from regard.training.objectives.rows import ids
from regard.training.objectives.seq2seq import Seq2Seq


class SpanCorruption(Seq2Seq):
    """T5's task (1910.10683, 3.1.4 and 3.3.4): `part` of the tokens, in runs of `mean_span` on average, are hidden.

    Each run becomes one sentinel: `sentinel`, the highest one, then those below it, down to `last_sentinel`. The target
    is every sentinel followed by what it hides, one more sentinel, and `eos`. A row's `input_ids` are plain text
    without the end; `eos` is put behind them. Rows with `labels` are taken as they are.
    Raises ValueError for a row with fewer than 2 tokens, or too many runs for the sentinels.
    """

    name = "span-corruption"

    def __init__(
        self,
        *,
        sentinel: int,
        last_sentinel: int,
        eos: int,
        part: float = 0.15,
        mean_span: float = 3.0,
        smoothing: float = 0.0,
        z_loss: float = 0.0,
    ):
        super().__init__(smoothing=smoothing, z_loss=z_loss)
        if not 0 < part < 1 or mean_span < 1:
            raise ValueError(f"part is {part}, mean_span {mean_span}; allowed: between 0 and 1, and at least 1")
        if not 0 <= last_sentinel < sentinel:
            raise ValueError(f"last_sentinel is {last_sentinel}; allowed: 0 to {sentinel - 1}, as they count down")
        self.sentinel, self.last_sentinel, self.eos = sentinel, last_sentinel, eos
        self.part, self.mean_span = part, mean_span

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        if rows and "labels" not in rows[0]:
            pairs = [self.corrupted(words, rng, i) for i, words in enumerate(ids(rows))]
            rows = [{"input_ids": source, "labels": goal} for source, goal in pairs]
        return super().collate(rows, rng)

    def corrupted(self, words: np.ndarray, rng: np.random.Generator, i: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Source and target of row i."""
        if len(words) < 2:
            raise ValueError(f"row {i} of the batch: input_ids has {len(words)} token; allowed: at least 2")
        hidden, kept = self.spans(len(words), rng)
        if len(hidden) > self.sentinel - self.last_sentinel:
            raise ValueError(
                f"row {i} of the batch has {len(hidden)} hidden runs; "
                f"allowed: {self.sentinel - self.last_sentinel}, one fewer than sentinels"
            )
        source: list[np.ndarray] = []
        goal: list[np.ndarray] = []
        place = 0
        for number, (before, within) in enumerate(zip(kept[:-1], hidden, strict=True)):
            mark = np.array([self.sentinel - number])
            source += [words[place : place + before], mark]
            goal += [mark, words[place + before : place + before + within]]
            place += before + within
        final = np.array([self.sentinel - len(hidden), self.eos])
        return np.concatenate([*source, words[place:], final[1:]]), np.concatenate([*goal, final])

    def spans(self, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of hidden runs, and of the kept ones around them, of which the first and the last may be empty."""
        hidden = int(np.clip(round(length * self.part), 1, length - 1))
        count = int(np.clip(round(hidden / self.mean_span), 1, min(hidden, length - hidden + 1)))
        kept = _cut(length - hidden + 2, count + 1, rng)
        kept[[0, -1]] -= 1
        return _cut(hidden, count, rng), kept


def _cut(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`total` in so many parts of at least 1, every way equally likely."""
    ends = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.zeros(0, dtype=np.int64)
    return np.diff(ends, prepend=0, append=total)
