"""Greedy search and sampling: one token a step for every row, until each is finished."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from regard.generation.job import Job, Written, spare
from regard.generation.sampling import draw, spread, uniforms, warp


def search(job: Job, out: Written, *, watched: bool = False) -> Iterator[Tensor]:
    """Write into `out`; yields each step's tokens (R,), the pad id for rows that had finished.

    Finished rows leave the batch, in groups, so that they cost nothing. `watched`: the last step must be the last.
    """
    c, device = job.config, job.ids.device
    inputs, width = job.ids.shape
    live = torch.arange(inputs * c.num_return_sequences, device=device)  # where each row of the batch is in `out`
    source = live // c.num_return_sequences
    ids = job.ids.new_full((len(live), width + job.max_new), -1)
    ids[:, :width] = job.ids[source]
    done = torch.zeros(len(live), dtype=torch.bool, device=device)
    uniform = _uniforms(job)
    every = 1 if watched else patience(job)
    for new in range(job.max_new):
        drawn = None if uniform is None else uniform[live, new]
        tokens, logs, scores = _next(job, ids[:, : width + new], source, new, drawn, logged=out.logprobs is not None)
        ids[:, width + new] = tokens
        _record(job, out, live, new, tokens, done, logs, scores)
        yield out.tokens[:, new]
        done |= job.stop(ids[:, : width + new + 1], scores)
        if (new + 1) % every == 0:
            flags = done.tolist()
            if all(flags):
                break
            if new + 1 < job.max_new and any(flags) and spare(flags):
                keep = (~done).nonzero()[:, 0]
                live, source, ids, done = live[keep], source[keep], ids[keep], done[keep]
                job.decoding.select(keep)


def patience(job: Job) -> int:
    """Steps between looks at which rows are done: asking a GPU makes it wait, a few steps too many cost less."""
    return 1 if job.ids.device.type == "cpu" or job.stop.each_step else 8


def _next(
    job: Job, ids: Tensor, source: Tensor, new: int, uniform: Tensor | None, *, logged: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The next tokens (R,), their log-probabilities if `logged`, and the scores (R, V) if somebody looked at all."""
    read = ids if new else job.ids
    if uniform is None and len(read) == len(ids) and (found := job.best(read, new, 1, weighed=logged)) is not None:
        logs, tokens = (part[:, 0] for part in found)
        return tokens, logs if logged else None, None
    raw = job.decoding.next(read)
    if len(read) < len(ids):  # several rows go on from one prompt
        job.decoding.select(source)
        raw = raw[source]
    logs = raw.log_softmax(-1) if logged else None
    tokens, scores = _pick(job, job.processed(ids, source, new, raw), uniform)
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
    live: Tensor,
    new: int,
    tokens: Tensor,
    done: Tensor,
    logs: Tensor | None,
    scores: Tensor | None,
) -> None:
    out.tokens[live, new] = torch.where(done, job.pad, tokens)
    out.lengths[live] += (~done).long()
    if logs is not None:
        assert out.logprobs is not None
        out.logprobs[live, new] = torch.where(done, 0.0, logs)
    if job.config.output_scores and scores is not None:
        everyone = scores.new_zeros(out.tokens.shape[0], job.vocab)
        everyone[live] = scores
        out.scores.append(everyone)
