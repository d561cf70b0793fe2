"""Beam search, plain, sampled or in diverse groups (1610.02424), as the reference's vectorised search defines it."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.generation.job import Job, Written, spare
from regard.generation.processors import diversity
from regard.generation.sampling import generators, gumbel, spread, warp

NEVER = -1.0e9
"""Added to what must not be chosen; finite, so that several can be told apart."""


class Beams:
    """K beams for each of B inputs: those that still run, and the best finished ones.

    `ids` (B, K, T) and `scores` (B, K) run, the best first; `best_...` are the finished ones, scored by
    sum of log-probabilities / length ** length_penalty over the written tokens.
    """

    def __init__(self, job: Job, beams: int, draws: list[torch.Generator] | None):
        c = job.config
        inputs, self.width = job.ids.shape
        device = job.ids.device
        self.job, self.beams, self.draws = job, beams, draws
        self.keep = max(2, 1 + len(c.eos_token_id)) * beams  # so many that `beams` of them go on
        self.ids = job.ids.new_full((inputs, beams, self.width + job.max_new), -1)
        self.ids[:, :, : self.width] = job.ids[:, None]
        self.scores = torch.zeros(inputs, beams, device=device)
        self.scores[:, 1:] = NEVER  # all beams start equal: only the first may branch
        self.logprobs = torch.zeros(inputs, beams, job.max_new, device=device)
        self.best_ids, self.best_logprobs = self.ids.clone(), self.logprobs.clone()
        self.best_scores = torch.full((inputs, beams), NEVER, device=device)
        self.best_lengths = torch.zeros(inputs, beams, dtype=torch.long, device=device)
        self.finished = torch.zeros(inputs, beams, dtype=torch.bool, device=device)
        self.closed = torch.zeros(inputs, dtype=torch.bool, device=device)  # nothing can be added any more

    def advance(self, scores: Tensor, logs: Tensor, new: int, names: Tensor | None = None) -> Tensor:
        """Take a step with processed (B, K, V) and plain log-probabilities; gives each beam's parent (B, K).

        `names` (B, K, V): which tokens these are, where they are not the whole vocabulary.
        """
        vocab = scores.shape[-1]
        total = (scores + self.scores[..., None]).flatten(1)  # (B, K * V)
        keep = min(self.keep, total.shape[1])
        if self.job.config.do_sample:
            index = (total + gumbel(total, self.draws)).topk(keep).indices
            found = total.gather(1, index)
        else:
            found, index = total.topk(keep)
        parents, tokens = index // vocab, index % vocab if names is None else names.flatten(1).gather(1, index)
        ids = _rows(self.ids, parents)
        ids[:, :, self.width + new] = tokens
        logprobs = _rows(self.logprobs, parents)
        logprobs[:, :, new] = logs.flatten(1).gather(1, index)
        ends = self.job.stop(ids[:, :, : self.width + new + 1].flatten(0, 1), None).view(tokens.shape)
        if new + 1 == self.job.max_new:
            ends = torch.ones_like(ends)
        running = found + ends * NEVER
        going = running.topk(self.beams).indices
        self.ids, self.logprobs = _rows(ids, going), _rows(logprobs, going)
        self.scores = running.gather(1, going)
        self._finish(found, ids, logprobs, ends, new + 1)
        self._close(ends, new + 1)
        return parents.gather(1, going)

    def _finish(self, found: Tensor, ids: Tensor, logprobs: Tensor, ends: Tensor, length: int) -> None:
        """Let candidates that end among the first `beams` compete with the finished ones."""
        top = torch.arange(found.shape[1], device=found.device) < self.beams
        ending = ends & top
        scores = found / length**self.job.config.length_penalty
        scores = scores + self.closed[:, None] * NEVER + ~ending * NEVER
        scores, order = torch.cat([self.best_scores, scores], 1).topk(self.beams)
        lengths = torch.full_like(found, length, dtype=torch.long)
        self.best_ids = _rows(torch.cat([self.best_ids, ids], 1), order)
        self.best_logprobs = _rows(torch.cat([self.best_logprobs, logprobs], 1), order)
        self.best_lengths = torch.cat([self.best_lengths, lengths], 1).gather(1, order)
        self.finished = torch.cat([self.finished, ending], 1).gather(1, order)
        self.best_scores = scores

    def _close(self, ends: Tensor, length: int) -> None:
        """Close inputs whose running beams can no longer improve on the finished ones."""
        c = self.job.config
        longest = self.job.max_new if c.early_stopping == "never" and c.length_penalty > 0 else length
        hope = self.scores[:, :1] / longest**c.length_penalty
        worst = torch.where(self.finished, self.best_scores.amin(1, keepdim=True), NEVER)
        self.closed |= ~(hope > worst).any(1) | ends.all(1)
        if c.early_stopping is True:
            self.closed |= self.finished.all(1)

    def select(self, keep: Tensor) -> None:
        """Only these inputs go on."""
        names = ("ids", "scores", "logprobs", "best_ids", "best_scores", "best_logprobs", "best_lengths")
        for name in (*names, "finished", "closed"):
            setattr(self, name, getattr(self, name)[keep])
        if self.draws is not None:
            self.draws = [self.draws[i] for i in keep.tolist()]


def beam_search(job: Job, out: Written) -> None:
    """Write the best `num_return_sequences` beams of each input into `out`."""
    c, device = job.config, job.ids.device
    inputs, width = job.ids.shape
    streams = generators(c.seed, inputs, 1) if c.do_sample else None
    groups = [Beams(job, c.num_beams // c.num_beam_groups, streams) for _ in range(c.num_beam_groups)]
    live = torch.arange(inputs, device=device)
    plain = len(groups) == 1 and not (c.do_sample or c.renormalize_logits)
    for new in range(job.max_new):
        # every beam reads the same prompt: read it once
        every = None if new else torch.arange(inputs, device=device).repeat_interleave(c.num_beams)
        ids = _together([g.ids for g in groups])[..., : width + new].flatten(0, 1) if new else job.ids
        likeliest = job.best(ids, new, groups[0].keep) if plain else None
        found: tuple[Tensor, ...] = likeliest or (job.decoding.next(ids).log_softmax(-1),)
        if every is not None:
            found = tuple(part[every] for part in found)
            job.decoding.select(every)
        logs, *names = (part.unflatten(0, (-1, c.num_beams)) for part in found)
        if names:
            parents = groups[0].advance(logs, logs, new, *names)
        else:
            parents = _step(job, out, groups, live, new, logs)
        closed = torch.stack([g.closed for g in groups]).all(0).tolist()
        if all(closed) or new + 1 == job.max_new:
            break
        first = torch.arange(len(live), device=device)[:, None] * c.num_beams
        order = parents + first  # (B, beams) rows of the cache
        if any(closed) and spare(closed):
            keep = torch.tensor([i for i, shut in enumerate(closed) if not shut], device=device)
            _write(job, out, groups, live)
            live, order = live[keep], order[keep]
            for group in groups:
                group.select(keep)
            job.decoding.select(order.flatten())
        else:
            job.decoding.select(order.flatten(), memory=False)
    _write(job, out, groups, live)


def _step(job: Job, out: Written, groups: list[Beams], live: Tensor, new: int, logs: Tensor) -> Tensor:
    """One step of every group, each seeing what the ones before it took; log-probabilities (B, beams, V)."""
    c, end = job.config, groups[0].width + new
    size = groups[0].beams
    taken = torch.zeros(len(live), job.vocab, device=logs.device) if c.diversity_penalty else None
    parents, kept = [], []
    for number, group in enumerate(groups):
        own = logs[:, number * size : (number + 1) * size]
        scores = own.clone() if taken is None else diversity(own, taken, c.diversity_penalty)
        rows = live.repeat_interleave(size)
        scores = job.processed(group.ids[..., :end].flatten(0, 1), rows, new, scores.flatten(0, 1))
        if c.do_sample:
            scores = spread(*warp(scores, c, len(c.eos_token_id) + 1 if c.eos_token_id else 2), job.vocab)
        if c.renormalize_logits:
            scores = scores.log_softmax(-1)
        scores = scores.unflatten(0, (-1, size))
        parents.append(group.advance(scores, own, new) + number * size)
        if taken is not None:
            tokens = group.ids[:, :, end]
            taken.scatter_add_(1, tokens, (~group.closed)[:, None].expand(tokens.shape).to(taken.dtype))
        kept.append(scores)
    if c.output_scores:
        everyone = logs.new_zeros(out.tokens.shape[0] // c.num_return_sequences, c.num_beams, job.vocab)
        everyone[live] = torch.cat(kept, 1)
        out.scores.append(everyone.flatten(0, 1))
    return torch.cat(parents, 1)


def _write(job: Job, out: Written, groups: list[Beams], live: Tensor) -> None:
    """The best finished beams of all groups, the best first."""
    copies, width = job.config.num_return_sequences, groups[0].width
    scores, order = torch.cat([g.best_scores for g in groups], 1).topk(copies)
    rows = (live[:, None] * copies + torch.arange(copies, device=live.device)).flatten()
    lengths = torch.cat([g.best_lengths for g in groups], 1).gather(1, order).flatten()
    tokens = _rows(torch.cat([g.best_ids for g in groups], 1), order).flatten(0, 1)[:, width:]
    real = torch.arange(job.max_new, device=live.device) < lengths[:, None]
    out.tokens[rows] = torch.where(real, tokens, job.pad)
    out.lengths[rows] = lengths
    assert out.totals is not None
    out.totals[rows] = scores.flatten()
    if out.logprobs is not None:
        logprobs = _rows(torch.cat([g.best_logprobs for g in groups], 1), order).flatten(0, 1)
        out.logprobs[rows] = torch.where(real, logprobs, 0.0)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """(B, K, ...) at index (B, n) -> (B, n, ...)."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
