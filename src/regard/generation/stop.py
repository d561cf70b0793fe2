"""When a row is finished: an end token, a string, a function, or the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.generation.config import GenerationConfig


class Stop:
    """Called after each step with the histories (R, T); gives which rows are finished (R,).

    Stop strings are looked for in the text of the new tokens, wherever token borders fall; they stay in the result.
    """

    def __init__(self, c: GenerationConfig, width: int, pad: int, device: torch.device):
        if c.stop_strings and c.tokenizer is None:
            raise ValueError("stop_strings needs a tokenizer; this model came without one, pass tokenizer=")
        self.ends = frozenset(c.eos_token_id)
        self.eos = torch.tensor(c.eos_token_id, dtype=torch.long, device=device)
        self.strings, self.tokenizer = c.stop_strings, c.tokenizer
        # A token has at least one byte of text, but for special ones; some more give room for those.
        self.tail = max((len(s.encode()) for s in c.stop_strings), default=0) + 8
        self.criteria: tuple[Callable[..., Any], ...] = c.stopping_criteria
        self.width, self.pad = width, pad
        self.end = None if c.max_time is None else time.monotonic() + c.max_time
        self.each_step = bool(c.stop_strings or c.stopping_criteria or c.max_time)

    def __call__(self, ids: Tensor, scores: Tensor | None = None) -> Tensor:
        last = ids[:, -1]
        count = self.eos.shape[0]
        if count == 1:
            done = last == self.eos
        elif count:
            done = (last[:, None] == self.eos).any(1)
        else:
            done = torch.zeros_like(last, dtype=torch.bool)
        if not self.each_step:
            return done
        if self.strings or self.end is not None:
            new = ids[:, max(self.width, ids.shape[1] - self.tail) :].tolist()
            done = done | torch.tensor(self.each(new), device=ids.device)
        for criterion in self.criteria:
            found = criterion(ids.masked_fill(ids < 0, self.pad), scores)
            done = done | torch.as_tensor(found, device=ids.device).expand(done.shape).bool()
        return done

    def each(self, new: Sequence[Sequence[int]]) -> list[bool]:
        """Which rows are finished, whose last new tokens these are, for all that functions say."""
        if self.end is not None and time.monotonic() >= self.end:
            return [True] * len(new)
        return [row[-1] in self.ends or holds(self.tokenizer, row, self.strings) for row in new]


def holds(tokenizer: Any, ids: Sequence[int], strings: Sequence[str]) -> bool:
    """Whether the text of these ids contains one of the strings."""
    if not strings:
        return False
    text = tokenizer.decode(list(ids), skip_special_tokens=False)
    return any(string in text for string in strings)
