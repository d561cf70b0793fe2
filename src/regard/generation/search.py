"""Greedy search and sampling: one token a step for every row, until each is finished and nobody waits for its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from regard.generation.job import Job, Written, spare
from regard.generation.sampling import draw, spread, uniforms, warp

Groups = list[tuple[int, "Tensor | slice"]]


class Rows:
    """The rows at work: the first `job.at_once` of all, and later those that take the places of finished ones.

    `live` (R,): where each is in the result; `source` (R,): the input that it continues; `ids` (R, ...): its history,
    which ends before column `end` for all rows, -1 on the left of it; `written`: how many tokens are its own.
    """

    def __init__(self, job: Job):
        self.job, copies = job, job.config.num_return_sequences
        self.waiting = deque(range(len(job.ids) * copies))
        first = [self.waiting.popleft() for _ in range(min(job.at_once, len(self.waiting)))]
        self.live = torch.tensor(first, device=job.ids.device)
        self.source = self.live // copies
        self.width = self.end = job.ids.shape[1]
        self.ids = job.ids.new_full((len(first), self.width + job.max_new), -1)
        self.ids[:, : self.width] = job.ids[self.source]
        job.decoding.begin(self.source)
        self.written = [0] * len(first)
        self.done = torch.zeros(len(first), dtype=torch.bool, device=job.ids.device)

    def history(self, new: int, rows: Tensor | slice = slice(None)) -> Tensor:
        """(R, width + new): of rows that have written `new` tokens, the prompt as wide as the widest of all."""
        return self.ids[rows, self.end - self.width - new : self.end]

    def groups(self) -> Groups:
        """Rows by how many tokens they have written."""
        if len(known := set(self.written)) == 1:
            return [(known.pop(), slice(None))]
        rows = torch.tensor(self.written)
        return [(new, (rows == new).nonzero()[:, 0].to(self.live.device)) for new in sorted(known)]

    def columns(self) -> Tensor | int:
        """Where each row's next token goes in the result."""
        new = self.written[0]
        return new if len(set(self.written)) == 1 else torch.tensor(self.written, device=self.live.device)

    def add(self, tokens: Tensor, scores: Tensor | None) -> None:
        """Take the next tokens (R,), and see who is finished."""
        self.ids[:, self.end] = tokens
        self.end += 1
        self.written = [n + 1 for n in self.written]
        stop = self.job.stop
        if not stop.each_step:
            self.done |= stop(self.ids[:, : self.end])
            return
        for new, rows in self.groups():
            self.done[rows] |= stop(self.history(new, rows), None if scores is None else scores[rows])

    def turn_over(self, flags: list[bool]) -> None:
        """Let those who wait take the places of finished rows; without any, move the others together."""
        ended = [i for i, flag in enumerate(flags) if flag]
        places, over = ended[: len(self.waiting)], ended[len(self.waiting) :]
        if over and (spare([i in over for i in range(len(flags))]) or max(self.written) == self.job.max_new):
            stay = [i for i in range(len(flags)) if i not in over]
            places = [stay.index(i) for i in places]
            self.select(stay)
        begun = [0 if i in places else n for i, n in enumerate(self.written)]
        if (gap := self.end - self.width - max(begun)) > 0:
            self.ids[:, : self.end - gap] = self.ids[:, gap : self.end].clone()
            self.end -= gap
        self.written = begun
        if places:
            self.refill(torch.tensor(places, device=self.live.device))

    def refill(self, places: Tensor) -> None:
        """Begin with inputs that wait, in these rows."""
        job = self.job
        self.live[places] = torch.tensor([self.waiting.popleft() for _ in places], device=self.live.device)
        self.source = self.live // job.config.num_return_sequences
        inputs = self.source[places]
        self.ids[places] = -1
        self.ids[places, self.end - self.width : self.end] = job.ids[inputs]
        self.done[places] = False
        job.decoding.replace(places, inputs, job.ids[inputs])

    def select(self, rows: list[int]) -> None:
        """Only these go on."""
        keep = torch.tensor(rows, device=self.live.device)
        self.live, self.source, self.ids, self.done = (
            part[keep] for part in (self.live, self.source, self.ids, self.done)
        )
        self.written = [self.written[i] for i in rows]
        self.job.decoding.select(keep)


def search(job: Job, out: Written, *, watched: bool = False) -> Iterator[Tensor]:
    """Write into `out`; yields each step's tokens (R,), the pad id for rows that had finished.

    Finished rows leave the batch, in groups, so that they cost nothing; where inputs wait, they take their places, and
    then what is yielded means nothing. `watched`: the last step must be the last.
    """
    rows = Rows(job)
    uniform = _uniforms(job)
    every = 1 if watched else patience(job)
    for step in count(1):
        columns = rows.columns()
        drawn = None if uniform is None else uniform[rows.live, columns]
        tokens, logs, scores = _next(job, rows, drawn, first=step == 1, logged=out.logprobs is not None)
        _record(job, out, rows, columns, tokens, logs, scores)
        yield out.tokens[:, columns if isinstance(columns, int) else 0]
        rows.add(tokens, scores)
        full = max(rows.written) == job.max_new
        if full or step % every == 0:
            flags = [d or n == job.max_new for d, n in zip(rows.done.tolist(), rows.written, strict=True)]
            if all(flags) and not rows.waiting:
                return
            if any(flags):
                rows.turn_over(flags)


def patience(job: Job) -> int:
    """Steps between looks at which rows are done: asking a GPU makes it wait, a few steps too many cost less."""
    return 1 if job.ids.device.type == "cpu" or job.stop.each_step else 8


def _next(
    job: Job, rows: Rows, uniform: Tensor | None, *, first: bool, logged: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The next tokens (R,), their log-probabilities if `logged`, and the scores (R, V) if somebody looked at all."""
    groups = rows.groups()
    alike = len(groups) == 1 or not job.processors
    read = rows.ids[:, : rows.end]
    several, k = first and job.config.num_return_sequences > 1, job.config.top_k
    few = uniform is None or 0 < k < job.vocab
    if few and alike and not several:
        found = job.best(read, groups[0][0], 1 if uniform is None else k, weighed=logged)
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


def _record(
    job: Job,
    out: Written,
    rows: Rows,
    columns: Tensor | int,
    tokens: Tensor,
    logs: Tensor | None,
    scores: Tensor | None,
) -> None:
    live, done = rows.live, rows.done
    out.tokens[live, columns] = torch.where(done, job.pad, tokens)
    out.lengths[live] += (~done).long()
    if logs is not None:
        assert out.logprobs is not None
        out.logprobs[live, columns] = torch.where(done, 0.0, logs)
    if job.config.output_scores and scores is not None:
        everyone = scores.new_zeros(out.tokens.shape[0], job.vocab)
        everyone[live] = scores
        out.scores.append(everyone)
