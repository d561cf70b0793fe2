"""One call of `generate`, made ready: what the loops work from and what they write to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard.generation.config import GenerationConfig
from regard.generation.decode import Decoding
from regard.generation.processors import Processor, Seen, forbidden
from regard.generation.stop import Stop


@dataclass
class Job:
    """`ids` (B, W): prompts padded on the left with -1. `max_new`: steps at most. `at_once`: rows at work together."""

    config: GenerationConfig
    decoding: Decoding
    ids: Tensor
    max_new: int
    pad: int
    vocab: int
    processors: list[Processor]
    stop: Stop
    at_once: int
    _rules: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def processed(self, ids: Tensor, rows: Tensor, new: int, scores: Tensor) -> Tensor:
        """Scores (R, V) after every rule; they may be changed in place."""
        if self.processors:
            seen = Seen(ids, rows, new)
            for rule in self.processors:
                scores = rule(seen, scores)
        return scores

    @property
    def all_seen(self) -> bool:
        """Whether somebody wants to see the scores of all tokens."""
        return bool(self.config.output_scores or self.stop.criteria or self.decoding.guesses)

    @property
    def candidates(self) -> int:
        """How many of the likeliest tokens are enough to choose from; 0 where all are needed."""
        c = self.config
        if self.all_seen:
            return 0
        return 1 if not c.do_sample else c.top_k if c.top_k < self.vocab else 0

    def best(self, ids: Tensor, new: int, count: int, *, weighed: bool = True) -> tuple[Tensor, Tensor] | None:
        """The `count` likeliest tokens of each row after every rule, as `LanguageHead.best` gives them; None where
        somebody looks at the scores of all."""
        banned = forbidden(self.processors, new)
        if banned is None or self.all_seen:
            return None
        return self.decoding.best(ids, count, self._rule(banned), weighed=weighed)

    def write(self, ids: Tensor, end: int, new: int, *, logs: Tensor | None, draws: Tensor | None) -> list[int] | None:
        """Let the kernels write column `end` of histories, if they can, which hold `new` tokens of their own so far."""
        banned = forbidden(self.processors, new)
        if banned is None:
            return None
        return self.decoding.write(ids, end, self.config, rule=self._rule(banned), logs=logs, draws=draws)

    def _rule(self, banned: list[Tensor]) -> Tensor | None:
        key = tuple(map(id, banned))
        if banned and key not in self._rules:
            zeros = torch.zeros(self.vocab, device=self.ids.device)
            self._rules[key] = zeros.index_fill_(0, torch.cat(banned), -torch.inf)
        return self._rules.get(key)


@dataclass
class Written:
    """New tokens (R, max_new), padded on the right, and how many are real (R,).

    `logprobs` (R, max_new): what the model gave each token before any rule. `scores`: per step (R, V) after the rules.
    `totals` (R,): scores of whole beams.
    """

    tokens: Tensor
    lengths: Tensor
    logprobs: Tensor | None = None
    scores: list[Tensor] = field(default_factory=list)
    totals: Tensor | None = None

    @staticmethod
    def empty(job: Job, rows: int) -> Written:
        """Nothing written yet."""
        device = job.ids.device
        tokens = torch.full((rows, job.max_new), job.pad, device=device)
        logprobs = torch.zeros(rows, job.max_new, device=device) if job.config.return_dict_in_generate else None
        return Written(tokens, torch.zeros(rows, dtype=torch.long, device=device), logprobs)


def spare(done: list[bool]) -> bool:
    """Whether so many rows are finished that moving the others together is worth a copy of the cache."""
    return sum(done) * 4 >= len(done)
