"""Losses as formulas. All are sums over their items, so that parts of a batch add up to the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regard.config import LanguageHeadConfig
from regard.nn import LanguageHead

IGNORE = -100
"""The target that counts for nothing."""
SCORES = 2**24
"""About how many vocabulary scores are held at a time."""
FEW = 2**18
"""So few scores, as of letters, are held at once: pieces would save nothing, and cost time in a small step."""
LEAST_ROWS = 128
"""Fewer rows at a time would read the table of words more often than they save memory."""
_PLAIN = (nn.Linear, type(LanguageHead(LanguageHeadConfig(vocab_size=1), 1).out))


def _wide(x: Tensor) -> torch.dtype:
    """The type to sum in: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def cross_entropy(scores: Tensor, targets: Tensor, *, smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """-log softmax(scores)[target], summed over all targets but `IGNORE`. scores (..., V), targets (...).

    `smoothing` gives that share of the target to all classes evenly (1512.00567, 7); `z_loss` adds that much of the
    squared log of the normaliser, which keeps scores from drifting (2204.02311, 5).
    """
    scores, targets = scores.flatten(0, -2), targets.flatten()
    scores = scores.to(_wide(scores))
    loss = F.cross_entropy(scores, targets, reduction="sum", ignore_index=IGNORE, label_smoothing=smoothing)
    if z_loss:
        loss = loss + z_loss * (scores.logsumexp(-1).square() * (targets != IGNORE)).sum()
    return loss


def chunked_cross_entropy(
    hidden: Tensor,
    head: LanguageHead,
    targets: Tensor,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk: int | None = None,
) -> Tensor:
    """`cross_entropy` of a language head over hidden states (N, C), without ever holding all scores (N, V).

    `chunk` rows are scored at a time, by default as many as make about 16 million scores, at least 128; a quarter of
    a million scores are held after all. The gradient of a chunk is taken while its scores are at hand, so that nothing
    is computed twice; sums are kept in float32 at least.
    A head whose projection is not a plain linear layer (an adapter, say) is scored again for the gradient.
    Raises ValueError for shapes that do not fit.
    """
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1]:
        raise ValueError(f"hidden is {tuple(hidden.shape)}, targets {tuple(targets.shape)}; allowed: (N, C) and (N,)")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; allowed: at least 1")
    if chunk is None and len(hidden) * head.config.vocab_size <= FEW:
        return cross_entropy(head.logits(hidden), targets, smoothing=smoothing, z_loss=z_loss)
    rows = chunk or max(LEAST_ROWS, SCORES // head.config.vocab_size)
    if type(head) is LanguageHead and type(head.out) in _PLAIN:
        x = hidden if head.transform is None else head.transform(hidden)
        x = x * head.config.scale if head.config.scale != 1.0 else x
        options = (head.config.softcap, smoothing, z_loss, rows, torch.is_grad_enabled())
        loss: Tensor = _ChunkedLinear.apply(x, head.out.weight, head.out.bias, targets, options)
        return loss

    def part(x: Tensor, t: Tensor) -> Tensor:
        return cross_entropy(head.logits(x), t, smoothing=smoothing, z_loss=z_loss)

    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    parts = [checkpoint(part, x, t, use_reentrant=False) for x, t in pairs]
    return torch.stack(parts).sum()


class _ChunkedLinear(torch.autograd.Function):
    """Linear layer and cross-entropy in one, whose forward pass makes the gradients as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: tuple[Any, ...]):
        softcap, smoothing, z_loss, rows, training = options
        need = [n and training for n in ctx.needs_input_grad[:3]]
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        wide = _wide(x)
        dx = torch.empty_like(x) if need[0] else None
        dw = torch.zeros_like(weight, dtype=wide) if need[1] else None
        db = torch.zeros_like(bias, dtype=wide) if bias is not None and need[2] else None
        loss = torch.zeros((), dtype=wide, device=x.device)
        with torch.autocast(kind, enabled=False):
            w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(x), rows):
                xs, t = x[start : start + rows].to(dtype), targets[start : start + rows]
                scores = F.linear(xs, w, b).to(wide)
                part, slope = _loss_and_slope(scores, t, softcap, smoothing, z_loss, any(need))
                loss += part
                if slope is None:
                    continue
                if db is not None:
                    db += slope.sum(0)
                slope = slope.to(dtype)
                if dx is not None:
                    dx[start : start + rows] = slope @ w
                if dw is not None and dtype == wide:
                    dw.addmm_(slope.mT, xs)
                elif dw is not None:
                    dw += slope.mT @ xs
        dtypes = (x.dtype, weight.dtype, bias.dtype if bias is not None else None)
        ctx.gradients = [g if g is None else g.to(d) for g, d in zip((dx, dw, db), dtypes, strict=True)]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor):
        if ctx.gradients is None:
            raise RuntimeError("the gradient of this loss was taken already; compute the loss again")
        found, ctx.gradients = ctx.gradients, None  # scaled where they lie: a second copy may be too large
        return (*(None if g is None else g.mul_(slopes[0].to(g.dtype)) for g in found), None, None)


def _loss_and_slope(
    scores: Tensor, targets: Tensor, softcap: float | None, smoothing: float, z_loss: float, want: bool
) -> tuple[Tensor, Tensor | None]:
    """Summed loss of scores (n, V), and its derivative by them before the cap. The scores are overwritten."""
    squashed = None
    if softcap is not None:
        squashed = scores.div_(softcap).tanh_()
        scores = squashed * softcap
    counts = (targets != IGNORE).to(scores.dtype)[:, None]  # (n, 1)
    places = targets.clamp(min=0)[:, None]
    most = scores.amax(-1, keepdim=True)
    scores.sub_(most)
    picked, mean = scores.gather(1, places), scores.mean(-1, keepdim=True)
    total = scores.exp_().sum(-1, keepdim=True)
    log_total = total.log()
    normaliser = log_total + most
    each = log_total - (1 - smoothing) * picked - smoothing * mean + z_loss * normaliser.square()
    loss = (each * counts).sum()
    if not want:
        return loss, None
    slope = scores.mul_((1 + 2 * z_loss * normaliser) / total)
    if smoothing:
        slope.sub_(smoothing / scores.shape[1])
    slope.scatter_add_(1, places, torch.full_like(picked, smoothing - 1))
    slope.mul_(counts)
    if squashed is not None:
        slope.mul_(squashed.square_().neg_().add_(1))
    return loss, slope


def info_nce(queries: Tensor, keys: Tensor, *, scale: float | Tensor = 20.0, symmetric: bool = False) -> Tensor:
    """Row i of `queries` (B, D) should be more like row i of `keys` (K, D) than like all the others (1807.03748).

    Likeness is cosine * `scale`. Keys beyond the first B are further negatives. `symmetric` is the mean of both
    directions, where the keys look for their queries among the B (2103.00020). The sum over B.
    Raises ValueError for fewer keys than queries.
    """
    if keys.shape[0] < queries.shape[0] or keys.shape[1:] != queries.shape[1:]:
        raise ValueError(
            f"queries are {tuple(queries.shape)}, keys {tuple(keys.shape)}; allowed: as many keys or more, as wide"
        )
    queries, keys = queries.to(_wide(queries)), keys.to(_wide(keys))
    scores = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT * scale
    return pair_loss(scores, symmetric=symmetric)


def pair_loss(scores: Tensor, *, symmetric: bool) -> Tensor:
    """Cross-entropy of scores (B, at least B) whose right choices lie on the diagonal, summed over B."""
    right = torch.arange(scores.shape[0], device=scores.device)
    loss = cross_entropy(scores, right)
    return (loss + cross_entropy(scores[:, : len(right)].mT, right)) / 2 if symmetric else loss


def sigmoid_pair_loss(scores: Tensor) -> Tensor:
    """Every pair of scores (B, B) judged by itself, right on the diagonal and wrong elsewhere (2303.15343). Sum."""
    sign = 2 * torch.eye(scores.shape[0], device=scores.device, dtype=scores.dtype) - 1
    return -F.logsigmoid(sign * scores).sum()


def self_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """DINO (2104.14294, 3.1): the student's views, each (B, K) scores, predict the teacher's other views.

    The first views of both are the same crops, and are not compared with themselves. The teacher's scores are centred
    and sharpened. The mean over pairs of views, summed over B.
    Raises ValueError if there is no pair to compare.
    """
    wanted = [((t - centre) / teacher_temperature).softmax(-1, _wide(t)).detach() for t in teacher]
    said = [(s / student_temperature).log_softmax(-1, _wide(s)) for s in student]
    pairs = [-(w * s).sum() for i, w in enumerate(wanted) for j, s in enumerate(said) if i != j]
    if not pairs:
        raise ValueError(f"{len(student)} views of the student, {len(teacher)} of the teacher; allowed: 2 or more")
    return torch.stack(pairs).mean()


def ctc(scores: Tensor, lengths: Sequence[int], targets: Tensor, counts: Sequence[int], *, blank: int) -> Tensor:
    """-log of the probability of all ways to spell each target (Graves et al. 2006), summed over rows.

    scores (B, T, V), of which row b has `lengths[b]` real moments; targets are end to end, `counts[b]` of each row.
    A row with too few moments to spell its target counts 0, as nothing can be learned from it.
    """
    return F.ctc_loss(
        scores.log_softmax(-1, _wide(scores)).transpose(0, 1),
        targets,
        torch.tensor(lengths),
        torch.tensor(counts),
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )
