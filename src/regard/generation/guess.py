"""Speculative decoding: several tokens are guessed and read in one pass, and kept as far as they are what comes.

What comes is decided as always: the model's own scores of each place go through every rule, and the same random number
chooses from them. So texts are those of plain decoding, greedy or sampled, token by token (2211.17192 with drafts that
are certain of their guess: it is taken with the probability that the model gives it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from regard.generation.decode import Decoding


class Guess(Protocol):
    """Says what may come after a history."""

    def __call__(self, ids: Tensor, count: int) -> Tensor:
        """History (T,) -> up to `count` tokens (n,), perhaps none."""


class Guessing(Decoding):
    """One row at a time, whose next tokens are guessed."""

    guesses = True

    def __init__(self, *arguments: Any, guesses_for: Callable[[int], Guess]):
        super().__init__(*arguments)
        self.guesses_for = guesses_for  # each input
        self.ahead: list[int] = []  # guesses that were read and not yet judged
        self.scores: Tensor | None = None  # (len(ahead) + 1, V): what follows the newest certain token, and each guess

    def begin(self, inputs: Tensor) -> None:
        super().begin(inputs)
        self.guess = self.guesses_for(int(inputs))

    def next(self, ids: Tensor) -> Tensor:
        assert ids.shape[0] == 1
        if self.scores is not None:
            if self.ahead and int(ids[0, -1]) == self.ahead[0]:
                self.ahead, self.scores = self.ahead[1:], self.scores[1:]
                return self.scores[:1].clone()  # rules may change them in place
            self.forget()
        cache, history = self.cache, ids[0][ids[0] >= 0]
        room = self.total - ids.shape[1] - 1  # the last token is never read
        if cache is not None and self.limit is not None:
            room = min(room, self.limit - cache.lengths[0] - 1)
        found = ids.new_empty(0) if cache is None or room < 1 else self.guess(history, room)
        if cache is None or not len(found):
            return super().next(ids)
        hidden = self.read_on(torch.cat([history[-1:], found])[None], cache)[0]
        self.ahead, self.scores = found.tolist(), self.model.logits(hidden).float()
        return self.scores[:1].clone()

    def forget(self) -> None:
        """Take back what was read of guesses that did not come."""
        if self.cache is not None and self.ahead:
            self.cache.crop([self.cache.lengths[0] - len(self.ahead)])
        self.ahead, self.scores = [], None

    def replace(self, rows: Tensor, inputs: Tensor, ids: Tensor) -> None:
        self.forget()
        super().replace(rows, inputs, ids)
        self.guess = self.guesses_for(int(inputs))


class Lookup:
    """Guesses that what followed the last words before follows them again (prompt look-up): the longest match of up to
    `ngram` tokens counts, of equal ones the latest that enough follows. An encoder's input `source` (S,) is
    looked at too."""

    def __init__(self, count: int, ngram: int, source: Tensor | None):
        self.count, self.ngram, self.source = count, ngram, source

    def __call__(self, ids: Tensor, count: int) -> Tensor:
        before = ids if self.source is None else torch.cat([self.source, ids])
        for n in range(min(self.ngram, len(ids), len(before) - 1), 0, -1):
            same = (before[:-1].unfold(0, n, 1) == ids[-n:]).all(1).nonzero()[:, 0]
            if len(same):
                starts, most = same + n, min(self.count, count)
                far = starts[starts + most <= len(before)]  # enough follows: a text that goes in circles is no dead end
                start = int(far[-1] if len(far) else starts[0])
                return before[start : start + most]
        return ids[:0]


class Draft:
    """Guesses what a smaller model would write, its likeliest tokens."""

    def __init__(self, count: int, decoding: Decoding):
        self.count, self.decoding = count, decoding
        self.read: list[int] = []  # what the cache holds

    def __call__(self, ids: Tensor, count: int) -> Tensor:
        decoding, row = self.decoding, ids.tolist()
        count = min(self.count, count)
        if decoding.limit is not None and len(row) + count > decoding.limit:
            return ids[:0]
        same = 0
        while same < min(len(self.read), len(row) - 1) and self.read[same] == row[same]:
            same += 1
        history = ids[None]
        for step in range(count):
            if (cache := decoding.cache) is None:
                hidden = decoding.hidden(history)
            else:
                if not step:
                    cache.crop([same])
                hidden = decoding.read_on(history[:, -1:] if step else history[:, same:], cache)[:, -1]
            token = decoding.model.logits(hidden).argmax(-1)
            history = torch.cat([history, token[:, None]], 1)
        self.read = history[0, :-1].tolist()
        return history[0, len(row) :]
