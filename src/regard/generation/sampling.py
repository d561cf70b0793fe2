"""Drawing a token: what is cut from the distribution, and one uniform number for each row and step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.generation.config import GenerationConfig


def top_k(scores: Tensor, k: int) -> Tensor:
    """Only the k best scores stay (1805.04833); k may exceed the vocabulary."""
    kth = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < kth, -math.inf)


def top_p(scores: Tensor, p: float, keep: int = 1) -> Tensor:
    """The smallest set of best tokens whose probabilities sum to p stays, at least `keep` (1904.09751)."""
    ordered, index = scores.sort()
    cut = ordered.softmax(-1).cumsum(-1) <= 1 - p
    cut[..., -keep:] = False
    return scores.masked_fill(cut.scatter(-1, index, cut), -math.inf)


def nucleus(scores: Tensor, p: float, keep: int = 1, most: int = 1024) -> tuple[Tensor, Tensor]:
    """`top_p` of the whole vocabulary, the best first: (candidates (R, M), their token ids (R, M)).

    Only the `most` best are put in order where they hold p of the probability, which takes a fraction of the time.
    """
    best, index = scores.topk(min(most, scores.shape[-1]))
    probs = (best - scores.logsumexp(-1, keepdim=True)).exp()
    before = probs.cumsum(-1) - probs
    if best.shape[-1] < scores.shape[-1] and not bool((before[:, -1] >= p).all()):
        return nucleus(scores, p, keep, scores.shape[-1])
    cut = before >= p
    cut[..., :keep] = False
    return best.masked_fill(cut, -math.inf), index


def min_p(scores: Tensor, p: float, keep: int = 1) -> Tensor:
    """Tokens less probable than p times the best one go, at least `keep` stay (2407.01082)."""
    probs = scores.softmax(-1)
    cut = probs < p * probs.amax(-1, keepdim=True)
    if keep > 1:
        cut.scatter_(-1, probs.topk(min(keep, probs.shape[-1])).indices, False)
    return scores.masked_fill(cut, -math.inf)


def typical(scores: Tensor, mass: float, keep: int = 1) -> Tensor:
    """The tokens whose surprise is nearest to the entropy stay, up to a total probability (2202.00666)."""
    logs = scores.log_softmax(-1)
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
    distance, index = (-logs - entropy).abs().sort()
    total = scores.gather(-1, index).softmax(-1).cumsum(-1)
    last = (total < mass).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    cut = distance > distance.gather(-1, last)
    cut[..., :keep] = False
    return scores.masked_fill(cut.scatter(-1, index, cut), -math.inf)


def warp(
    scores: Tensor, c: GenerationConfig, keep: int = 1, index: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Temperature and cuts in the reference's order: (candidates (R, M), their token ids (R, M) or None for all).

    With `top_k` only k candidates go on, so that nothing later touches the whole vocabulary; where these were found
    before, `index` says which tokens they are.
    """
    if c.temperature != 1.0 and c.temperature > 0:
        scores = scores / c.temperature
    if index is None and c.top_k and max(c.top_k, keep) < scores.shape[-1]:
        scores, index = scores.topk(max(c.top_k, keep))
    if c.top_p < 1.0 and index is None:
        scores, index = nucleus(scores, c.top_p, keep)
    elif c.top_p < 1.0:
        scores = top_p(scores, c.top_p, keep)
    if c.min_p is not None:
        scores = min_p(scores, c.min_p, keep)
    if c.typical_p < 1.0:
        scores = typical(scores, c.typical_p, keep)
    return scores, index


def spread(scores: Tensor, index: Tensor | None, vocab: int) -> Tensor:
    """Candidates back in their places: (R, M) -> (R, V), -inf elsewhere."""
    if index is None:
        return scores
    return scores.new_full((*scores.shape[:-1], vocab), -math.inf).scatter_(-1, index, scores)


def draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """One index for each row (R, M), by inverting the cumulative distribution at `uniform` (R,) in [0, 1)."""
    sums = torch.float32 if scores.device.type == "mps" else torch.float64
    total = scores.softmax(-1).cumsum(-1, dtype=sums)
    at = uniform.to(sums)[:, None] * total[:, -1:]
    return torch.searchsorted(total, at, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)


def generators(seed: int | tuple[int, ...] | None, inputs: int, copies: int) -> list[torch.Generator] | None:
    """One stream of random numbers for each row, inputs first; None for torch's own.

    Copies of an input get streams of their own, the first of which is that of the seed itself.
    Raises ValueError if there are neither one nor `inputs` seeds.
    """
    if seed is None:
        return None
    seeds = (seed,) * inputs if isinstance(seed, int) else seed
    if len(seeds) != inputs:
        raise ValueError(f"seed has {len(seeds)} numbers; allowed: one, or one for each of the {inputs} inputs")
    return [
        torch.Generator().manual_seed((s + copy * 0x9E3779B97F4A7C15) % 2**63) for s in seeds for copy in range(copies)
    ]


def uniforms(seed: int | tuple[int, ...] | None, inputs: int, copies: int, steps: int, device: torch.device) -> Tensor:
    """The numbers in [0, 1) that choose each row's tokens: (inputs * copies, steps), the same on any device."""
    streams = generators(seed, inputs, copies)
    if streams is None:
        return torch.rand(inputs * copies, steps, dtype=torch.float32).to(device)
    return torch.stack([torch.rand(steps, generator=g, dtype=torch.float32) for g in streams]).to(device)


def gumbel(like: Tensor, streams: list[torch.Generator] | None) -> Tensor:
    """Noise that turns the best n of scores (B, N) into a draw of n without replacement (1903.06059)."""
    if streams is None:
        return -torch.empty(like.shape).exponential_().log().to(like.device)
    rows = [torch.empty(like.shape[1:]).exponential_(generator=g) for g in streams]
    return -torch.stack(rows).log().to(like.device)
