"""Greedy search and sampling: one token a step for every row, until each is finished and nobody waits for its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count

import torch
from torch import Tensor

from regard.generation.job import Job, Written, spare
from regard.generation.sampling import draw, spread, uniforms, warp

Groups = list[tuple[int, "Tensor | slice"]]


class Rows:
    """The rows at work: the first `job.at_once` of all, and later those that take the places of finished ones.

    `live` (R,): where each is in the result; `source` (R,): the input that it continues; `ids` (R, ...): its history,
    which ends before column `end` for all rows, -1 on the left of it, and laid out alike `logs`, the log-probabilities,
    if they are wanted, and `draws`, the numbers that choose tokens, if any do; `begun`: the column at which a row's own
    tokens begin; `ended`: how many of these count, None while it goes on.
    """

    def __init__(self, job: Job, out: Written):
        self.job, self.out, copies = job, out, job.config.num_return_sequences
        self.waiting = deque(range(len(job.ids) * copies))
        first = [self.waiting.popleft() for _ in range(min(job.at_once, len(self.waiting)))]
        self.live = torch.tensor(first, device=job.ids.device)
        self.source = self.live // copies
        self.width = self.end = self.seen = job.ids.shape[1]
        self.ids = job.ids.new_full((len(first), self.width + job.max_new), -1)
        self.ids[:, : self.width] = job.ids[self.source]
        self.logs = None if out.logprobs is None else self.ids.new_zeros(self.ids.shape, dtype=torch.float32)
        job.decoding.begin(self.source)
        self.begun = [self.width] * len(first)
        self.ended: list[int | None] = [None] * len(first)
        self.uniform = _uniforms(job)
        self.draws = self._draws()

    @property
    def written(self) -> list[int]:
        """How many tokens each row has written."""
        return [self.end - first for first in self.begun]

    @property
    def full(self) -> bool:
        """Whether a row has written all that it may."""
        return self.end - min(self.begun) == self.job.max_new

    def _draws(self) -> Tensor | None:
        if self.uniform is None:
            return None
        columns = torch.arange(self.ids.shape[1]) - torch.tensor(self.begun)[:, None]
        columns = columns.clamp(0, self.job.max_new - 1).to(self.live.device)
        return self.uniform[self.live].gather(1, columns)

    def history(self, new: int, rows: Tensor | slice = slice(None)) -> Tensor:
        """(R, width + new): of rows that have written `new` tokens, the prompt as wide as the widest of all."""
        return self.ids[rows, self.end - self.width - new : self.end]

    def groups(self) -> Groups:
        """Rows by how many tokens they have written."""
        if len(known := set(self.begun)) == 1:
            return [(self.end - known.pop(), slice(None))]
        rows = torch.tensor(self.begun)
        columns = sorted(known, reverse=True)
        return [(self.end - first, (rows == first).nonzero()[:, 0].to(self.live.device)) for first in columns]

    def add(self, tokens: Tensor, logs: Tensor | None) -> None:
        """Take the next tokens (R,), and their log-probabilities."""
        self.ids[:, self.end] = tokens
        if self.logs is not None and logs is not None:
            self.logs[:, self.end] = logs
        self.end += 1

    def write(self) -> list[int] | None:
        """Let the kernels choose and write down the next tokens, if they can: those of all rows."""
        if not self.job.candidates or (self.job.processors and len(set(self.begun)) > 1):
            return None
        new = self.end - self.begun[0]
        tokens = self.job.write(self.ids, self.end, new, logs=self.logs, draws=self.draws)
        self.end += tokens is not None
        return tokens

    def shown(self) -> Tensor:
        """The newest tokens of all rows of the result, the pad id for those that had finished."""
        tokens = self.ids[:, self.end - 1]
        if len(tokens) == len(self.out.tokens) and not any(self.ended):
            return tokens
        going = [i for i, n in enumerate(self.ended) if n is None]
        return self.out.tokens.new_full((len(self.out.tokens),), self.job.pad).index_put_(
            (self.live[going],), tokens[going]
        )

    def look(self, scores: Tensor | None, newest: list[int] | None = None) -> None:
        """See who has finished since the last look; `scores` (R, V) are those of the last step, and `newest` its tokens
        as numbers, if they are at hand."""
        stop = self.job.stop
        if stop.criteria:
            for new, rows in self.groups():
                flags = stop(self.history(new, rows), None if scores is None else scores[rows]).tolist()
                self._end(range(len(flags)) if isinstance(rows, slice) else rows.tolist(), [[flag] for flag in flags])
        elif stop.each_step:
            recent = self.ids[:, max(0, self.end - stop.tail) : self.end].tolist()
            ends = stop.each([row[-n:] for n, row in zip(self.written, recent, strict=True)])
            self._end(range(len(ends)), [[end] for end in ends])
        elif newest is None or self.full or self.end - self.seen > 1 or not stop.ends.isdisjoint(newest):
            recent = self.ids[:, self.seen : self.end].tolist()
            self._end(range(len(recent)), [[token in stop.ends for token in row] for row in recent])
        self.seen = self.end

    def _end(self, rows: Iterable[int], flags: list[list[bool]]) -> None:
        """`flags` say of the last tokens of some rows whether each is an end."""
        for i, row in zip(rows, flags, strict=True):
            if self.ended[i] is None and True in row:
                self.ended[i] = self.end - self.begun[i] - len(row) + row.index(True) + 1
            elif self.ended[i] is None and self.end - self.begun[i] == self.job.max_new:
                self.ended[i] = self.job.max_new

    def turn_over(self) -> None:
        """Let those who wait take the places of finished rows; without any, move the others together."""
        ended = [i for i, n in enumerate(self.ended) if n is not None]
        places, over = ended[: len(self.waiting)], ended[len(self.waiting) :]
        apart = over and (self.full or spare([i in over for i in range(len(self.ended))]))
        if not places and not apart:
            return
        self.leave(places)
        if apart:
            self.leave(over)
            stay = [i for i in range(len(self.ended)) if i not in over]
            places = [stay.index(i) for i in places]
            self.select(stay)
        self.begun = [self.end if i in places else first for i, first in enumerate(self.begun)]
        if (gap := min(self.begun) - self.width) > 0:
            for part in (self.ids, self.logs):
                if part is not None:
                    part[:, : self.end - gap] = part[:, gap : self.end].clone()
            self.end, self.begun = self.end - gap, [first - gap for first in self.begun]
        self.seen = self.end
        if places:
            self.refill(torch.tensor(places, device=self.live.device))
        self.draws = self._draws()

    def leave(self, rows: list[int]) -> None:
        """These are finished: put what they have written into the result."""
        for i in rows:
            at, first, count = int(self.live[i]), self.begun[i], self.ended[i]
            assert count is not None
            self.out.tokens[at, :count] = self.ids[i, first : first + count]
            self.out.lengths[at] = count
            if self.out.logprobs is not None and self.logs is not None:
                self.out.logprobs[at, :count] = self.logs[i, first : first + count]

    def refill(self, places: Tensor) -> None:
        """Begin with inputs that wait, in these rows."""
        job = self.job
        self.live[places] = torch.tensor([self.waiting.popleft() for _ in places], device=self.live.device)
        self.source = self.live // job.config.num_return_sequences
        inputs = self.source[places]
        self.ids[places] = -1
        self.ids[places, self.end - self.width : self.end] = job.ids[inputs]
        for i in places.tolist():
            self.ended[i] = None
        job.decoding.replace(places, inputs, job.ids[inputs])

    def select(self, rows: list[int]) -> None:
        """Only these go on."""
        keep = torch.tensor(rows, device=self.live.device, dtype=torch.long)
        self.live, self.source, self.ids = (part[keep] for part in (self.live, self.source, self.ids))
        self.logs = None if self.logs is None else self.logs[keep]
        self.begun, self.ended = [self.begun[i] for i in rows], [self.ended[i] for i in rows]
        self.job.decoding.select(keep)


def search(job: Job, out: Written, *, watched: bool = False) -> Iterator[Tensor | None]:
    """Write into `out`, a row when it is finished; yields after each step.

    Finished rows leave the batch, in groups, so that they cost nothing; where inputs wait, they take their places.
    `watched`: tokens of all rows of the result are yielded, the pad id for those that had finished, and the last step
    must be the last.
    """
    rows = Rows(job, out)
    every = 1 if watched else patience(job)
    for step in count(1):
        scores, newest = None, None if step == 1 else rows.write()
        if newest is None:
            tokens, logs, scores = _next(job, rows, first=step == 1)
            if job.config.output_scores and scores is not None:
                out.scores.append(scores.new_zeros(len(out.tokens), job.vocab).index_put_((rows.live,), scores))
            rows.add(tokens, logs)
        yield rows.shown() if watched else None
        if rows.full or step % every == 0:
            rows.look(scores, newest)
            if not rows.waiting and None not in rows.ended:
                rows.leave(list(range(len(rows.ended))))
                return
            if any(rows.ended):
                rows.turn_over()


def patience(job: Job) -> int:
    """Steps between looks at which rows are done: asking a GPU makes it wait, a few steps too many cost less."""
    return 1 if job.ids.device.type == "cpu" or job.stop.each_step else 8


def _next(job: Job, rows: Rows, *, first: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The next tokens (R,), their log-probabilities if they are wanted, and the scores (R, V) if somebody looked at
    all."""
    groups, logged = rows.groups(), rows.logs is not None
    uniform = None if rows.draws is None else rows.draws[:, rows.end]
    alike = len(groups) == 1 or not job.processors
    read = rows.ids[:, : rows.end]
    several, k = first and job.config.num_return_sequences > 1, job.candidates
    if k and alike and not several:
        found = job.best(read, groups[0][0], k, weighed=logged)
        if found is not None:
            values, names = found
            if uniform is not None:
                place = draw(warp(values, job.config, index=names)[0], uniform)[:, None]
                values, names = values.gather(1, place), names.gather(1, place)
            return names[:, 0], values[:, 0] if logged else None, None
    if several:  # several rows go on from one prompt, which is read once
        sources, places = rows.source.unique(return_inverse=True)
        job.decoding.begin(sources)
        raw = job.decoding.next(job.ids[sources])[places]
        job.decoding.select(places)
    else:
        raw = job.decoding.next(read)
    logs = raw.log_softmax(-1) if logged else None
    if job.processors and len(groups) > 1:
        scores = torch.empty_like(raw)
        for new, part in groups:
            scores[part] = job.processed(rows.history(new, part), rows.source[part], new, raw[part])
    else:
        scores = job.processed(rows.history(groups[0][0]), rows.source, groups[0][0], raw)
    tokens, scores = _pick(job, scores, uniform)
    return tokens, None if logs is None else logs.gather(1, tokens[:, None])[:, 0], scores


def _uniforms(job: Job) -> Tensor | None:
    c = job.config
    if not c.do_sample:
        return None
    return uniforms(c.seed, job.ids.shape[0], c.num_return_sequences, job.max_new, job.ids.device)


def _pick(job: Job, scores: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next tokens (R,), and the scores (R, V) that they were chosen by."""
    if uniform is None:
        return scores.argmax(-1), scores
    candidates, index = warp(scores, job.config)
    place = draw(candidates, uniform)
    tokens = place if index is None else index.gather(1, place[:, None])[:, 0]
    if job.config.output_scores or job.stop.criteria:
        scores = spread(candidates, index, job.vocab)
    return tokens, scores
