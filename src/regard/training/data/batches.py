"""Which rows make which batch, and batches made ahead of time in a thread. All of it a function of seed and epoch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import count as counting
from typing import Any, TypeVar

import numpy as np

from regard.training.base import Dataset, Row
from regard.training.data.order import Order, order

Collated = TypeVar("Collated")
Position = tuple[int, int]
"""(epoch, batches of it that are done): what a run needs to remember to go on."""

POOL = 64
"""Batches' worth of shuffled rows that are sorted by length together."""


class Batches:
    """Lists of row numbers, epoch by epoch; a function of (seed, epoch), so a run goes on from (epoch, index) alone.

    A batch has `batch_size` rows; or with `batch_tokens`, rows of similar length of which no more are taken than,
    padded to the longest, fill so many tokens. Both count over all `world` devices: device `rank` is given rows
    rank, rank + world, ... of each batch. Every device has a row in every batch: a remainder that is too small for
    that joins the batch before it, unless `drop_last` leaves it out.

    `lengths` are tokens a row (N,), or (N, sides) where rows have several texts, such as a source and a target: rows
    are then alike in each. By default the dataset's own `lengths`, or the length of each row's input_ids. Raises
    ValueError for sizes that do not fit the rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int = 16,
        batch_tokens: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        lengths: Sequence[int] | np.ndarray | None = None,
        drop_last: bool = False,
        world: int = 1,
        rank: int = 0,
    ):
        for name, value in (("batch_size", batch_size), ("world", world), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 and more")
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; allowed: 0 to {world - 1}, as world is {world}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; allowed: 0 and more")
        self.rows, self.size, self.seed, self.shuffle = len(dataset), batch_size, seed, shuffle
        self.world, self.rank, self.drop_last = world, rank, drop_last
        if self.rows < world:
            raise ValueError(f"there are {self.rows} rows for {world} devices; each needs at least one")
        self.tokens = batch_tokens
        self.lengths: np.ndarray | None = None
        if batch_tokens is not None:
            known = lengths_of(dataset) if lengths is None else np.asarray(lengths, dtype=np.int64)
            self.lengths = known[:, None] if known.ndim == 1 else known
            self._check_lengths(batch_tokens)
        elif batch_size < world:
            raise ValueError(f"batch_size is {batch_size}; allowed: {world} (a row for each device) and more")
        elif drop_last and self.rows < batch_size:
            raise ValueError(
                f"batch_size is {batch_size}, and the {self.rows} rows fill no batch; drop_last leaves none"
            )
        self._plan: tuple[int, Order, np.ndarray] | None = None

    def _check_lengths(self, tokens: int) -> None:
        assert self.lengths is not None
        if self.lengths.ndim != 2 or len(self.lengths) != self.rows:
            raise ValueError(f"lengths has shape {self.lengths.shape}; allowed: ({self.rows},), a number for each row")
        total = self.lengths.sum(1)
        longest = int(total.argmax())
        if total[longest] * self.world > tokens:
            each = f", and each of {self.world} devices needs a row" if self.world > 1 else ""
            raise ValueError(
                f"batch_tokens is {tokens}, but row {longest} has {total[longest]} tokens{each}; allowed: "
                f"{total[longest] * self.world} and more, or cut the rows to a max_length"
            )

    def __len__(self) -> int:
        """Batches in an epoch; with `batch_tokens`, where epochs differ a little, in the first."""
        return self.count(0)

    def count(self, epoch: int) -> int:
        """Batches in one epoch."""
        return len(self._planned(epoch)[2]) - 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[int]]:
        """This device's rows of each batch of an epoch, from batch `start` on."""
        for index in range(start, self.count(epoch)):
            yield self.batch(epoch, index)

    def batch(self, epoch: int, index: int) -> list[int]:
        """This device's rows of one batch."""
        _, rows, cuts = self._planned(epoch)
        return rows(np.arange(cuts[index] + self.rank, cuts[index + 1], self.world)).tolist()

    def generator(self, epoch: int, index: int) -> np.random.Generator:
        """The source of all that is random in one batch on this device."""
        return np.random.default_rng((self.seed, epoch, index, self.rank))

    def _planned(self, epoch: int) -> tuple[int, Order, np.ndarray]:
        """(epoch, position -> row, positions at which batches begin and the last one ends)."""
        if self._plan is None or self._plan[0] != epoch:
            rows = order(self.rows, (self.seed, epoch), shuffle=self.shuffle)
            if self.lengths is None:
                cuts = self._ends(np.append(np.arange(0, self.rows, self.size), self.rows))
            else:
                rows, cuts = self._by_length(epoch, rows)
            self._plan = (epoch, rows, cuts)
        return self._plan

    def _ends(self, cuts: np.ndarray) -> np.ndarray:
        """Cuts without a last batch that is too small."""
        last = cuts[-1] - cuts[-2]
        if self.drop_last and self.lengths is None and last < self.size:
            return cuts[:-1]
        if len(cuts) > 2 and last < self.world:
            return cuts[:-1] if self.drop_last else np.delete(cuts, -2)
        return cuts

    def _by_length(self, epoch: int, rows: Order) -> tuple[Order, np.ndarray]:
        """Shuffled rows sorted within pools, cut where the next row would overfill, batches then shuffled again.

        Every second pool is sorted downwards, so that lengths do not jump where pools meet.
        """
        assert self.lengths is not None and self.tokens is not None
        shuffled = rows(np.arange(self.rows))
        lengths = self.lengths[shuffled]
        if self.shuffle:
            pool = max(1, int(POOL * self.tokens / max(1.0, float(lengths.sum(1).mean()))))
            for k, first in enumerate(range(0, self.rows, pool)):
                by = np.lexsort(lengths[first : first + pool].T[::-1])  # by the first side, then the next
                shuffled[first : first + pool] = shuffled[first : first + pool][by[::-1] if k % 2 else by]
            lengths = self.lengths[shuffled]
        cuts = self._ends(np.array(_cut(lengths.tolist(), self.tokens)))
        if not self.shuffle:
            return lambda positions: shuffled[positions], cuts
        sizes = np.diff(cuts)
        turn = np.random.default_rng((self.seed, epoch, 1)).permutation(len(sizes))
        shuffled = np.concatenate([shuffled[cuts[i] : cuts[i + 1]] for i in turn])
        return lambda positions: shuffled[positions], np.concatenate([[0], np.cumsum(sizes[turn])])


def _cut(lengths: list[list[int]], tokens: int) -> list[int]:
    cuts, longest = [0], lengths[0]
    for i, sides in enumerate(lengths):
        longest = list(map(max, longest, sides))
        if sum(longest) * (i + 1 - cuts[-1]) > tokens:
            cuts.append(i)
            longest = sides
    return [*cuts, len(lengths)]


def lengths_of(dataset: Dataset) -> np.ndarray:
    """Tokens of each row (N,), or of each side of it (N, sides): the dataset's own `lengths`, or those of input_ids."""
    known = getattr(dataset, "lengths", None)
    if known is not None:
        return np.asarray(known, dtype=np.int64)
    found = np.zeros(len(dataset), dtype=np.int64)
    for i in range(len(dataset)):
        row = dataset[i]
        if "input_ids" not in row:
            raise ValueError(f"batch_tokens needs the rows' lengths, and row {i} has no input_ids; pass batch_size")
        found[i] = len(row["input_ids"])
    return found


def stream(
    dataset: Dataset,
    batches: Batches,
    collate: Callable[[Sequence[Row], np.random.Generator], Collated],
    *,
    start: Position = (0, 0),
    epochs: int | None = None,
    ahead: int = 2,
) -> Generator[tuple[Position, Collated], None, None]:
    """Collated batches with the position to go on from after each, made up to `ahead` in a thread of their own.

    Endless, or `epochs` epochs counted from the first. A dataset that has `changed(index, rng)` gives rows that change;
    it draws from the source of their batch, as `collate` does. What `collate` or the dataset raises is raised here.
    Closing the iterator ends the thread. `ahead` 0 makes each batch when it is asked for.
    """

    changed: Callable[[int, np.random.Generator], Row] = getattr(dataset, "changed", lambda i, rng: dataset[i])

    def made() -> Generator[tuple[Position, Collated], None, None]:
        first, done = start
        for epoch in counting(first) if epochs is None else range(first, epochs):
            for index in range(done, batches.count(epoch)):
                rng = batches.generator(epoch, index)
                rows = [changed(i, rng) for i in batches.batch(epoch, index)]
                yield (epoch, index + 1), collate(rows, rng)
            done = 0

    return made() if ahead < 1 else prefetched(made(), ahead)


def prefetched(items: Iterator[Any], ahead: int) -> Generator[Any, None, None]:
    """The same items in the same order, up to `ahead` of them made in advance by one thread.

    The thread begins with the first item asked for; it ends with the items, with an error, or when this is closed.
    """
    ready: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: Any, error: BaseException | None = None, end: bool = False) -> None:
        while not stop.is_set():
            try:
                ready.put((item, error, end), timeout=0.1)
                break
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(None, end=True)
        except BaseException as error:
            put(None, error, end=True)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error, end = ready.get()
            if error is not None:
                raise error
            if end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
