"""Heads: hidden states -> what a task needs. A head is configuration; no family has a class of its own for one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.config import (
    ClassifierHeadConfig,
    FeaturesHeadConfig,
    LanguageHeadConfig,
    SpanHeadConfig,
    TokenHeadConfig,
    TransformConfig,
)
from regard.nn.attention import dropped
from regard.nn.build import build, builds
from regard.nn.cache import Pair
from regard.nn.context import Context
from regard.nn.linear import Linear
from regard.nn.norm import ACTIVATIONS


@dataclass(frozen=True)
class Ends:
    """Where each sequence begins and ends in its layout, for heads that read one vector per sequence."""

    ctx: Context
    ids: Tensor | None = None
    eos: tuple[int, ...] = ()

    def pool(self, hidden: Tensor, how: str) -> Tensor:
        """(B, T, C) or packed (N, C) -> (B, C).

        `how`: the first or last token, the last ("eos") or "first_eos" end of sequence, the one with the "highest" id,
        or the mean.
        """
        if self.ctx.lengths is not None:
            parts = hidden.split(list(self.ctx.lengths))
            ids = [None] * len(parts) if self.ids is None else self.ids[None].split(list(self.ctx.lengths), 1)
            return torch.cat([self._padded(h[None], how, None, i) for h, i in zip(parts, ids, strict=True)])
        return self._padded(hidden, how, self.ctx.groups[0].q_valid, self.ids)

    def _padded(self, hidden: Tensor, how: str, valid: Tensor | None, ids: Tensor | None) -> Tensor:
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        if how == "mean":
            real = torch.ones(hidden.shape[:2], device=hidden.device) if valid is None else valid
            weight = real.to(hidden.dtype)[..., None]
            return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        if how == "highest":
            if ids is None:
                raise ValueError("this head reads the token with the highest id: pass input_ids")
            return hidden[rows, (ids if valid is None else ids.masked_fill(~valid, -1)).argmax(1)]
        if how in ("eos", "first_eos"):
            if ids is None or not self.eos:
                raise ValueError("this head reads the end-of-sequence token: pass input_ids, and set eos_token_id")
            marked = torch.isin(ids, torch.tensor(self.eos, device=ids.device))
            marked = marked if valid is None or how == "eos" else marked & valid  # ends may serve as padding
            if not bool(marked.any(1).all()):
                raise ValueError(f"every input needs an end-of-sequence token (id {self.eos[0]}) for this head")
            return hidden[rows, _last(marked) if how == "eos" else marked.int().argmax(1)]
        if valid is None:
            return hidden[:, 0] if how == "first" else hidden[:, -1]
        return hidden[rows, valid.int().argmax(1) if how == "first" else _last(valid)]


def _last(marked: Tensor) -> Tensor:
    return marked.shape[1] - 1 - marked.flip(1).int().argmax(1)


@builds(TransformConfig)
class Transform(nn.Module):
    """dropout -> dense -> activation -> norm. (..., C) -> (..., dim)."""

    def __init__(self, config: TransformConfig, dim: int):
        super().__init__()
        self.dropout = config.dropout
        self.dense = Linear(dim, config.dim, config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = build(config.norm, config.dim) if config.norm is not None else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.dense(dropped(x, self.dropout, self.training)))
        return x if self.norm is None else self.norm(x)


@builds(FeaturesHeadConfig)
class FeaturesHead(nn.Module):
    """Hidden states themselves, and `pooler_output` (B, dim) where there is a pooler."""

    def __init__(self, config: FeaturesHeadConfig, dim: int):
        super().__init__()
        self.pooler = build(config.pooler, dim) if config.pooler is not None else None

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        return {} if self.pooler is None else {"pooler_output": self.pooler(ends.pool(hidden, "first"))}


@builds(LanguageHeadConfig)
class LanguageHead(nn.Module):
    """Hidden -> vocabulary; `logits` (..., V)."""

    def __init__(self, config: LanguageHeadConfig, dim: int):
        super().__init__()
        self.config = config
        self.transform = build(config.transform, dim) if config.transform is not None else None
        self.out = Linear(config.transform.dim if config.transform else dim, config.vocab_size, config.bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V), for any selection of positions."""
        c = self.config
        x = hidden if self.transform is None else self.transform(hidden)
        x = self.out(x * c.scale if c.scale != 1.0 else x)
        return x if c.softcap is None else c.softcap * torch.tanh(x / c.softcap)

    def best(self, hidden: Tensor, count: int, rule: Tensor | None = None, *, weighed: bool = True) -> Pair:
        """The likeliest tokens of each row: their log-probabilities (R, count), or scores unless `weighed`, and ids.

        `rule` (V,) is added before they are chosen.
        """
        logits = self.logits(hidden).float()
        ruled = logits if rule is None else logits + rule
        values, ids = ruled.max(-1, keepdim=True) if count == 1 else ruled.topk(count)  # half the time of topk(1)
        return values - logits.logsumexp(-1, keepdim=True) if weighed else values, ids

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        return {"logits": self.logits(hidden)}


@builds(ClassifierHeadConfig)
class ClassifierHead(nn.Module):
    """Pooled token -> labels; `logits` (B, labels)."""

    def __init__(self, config: ClassifierHeadConfig, dim: int):
        super().__init__()
        self.config = config
        self.transform = build(config.transform, dim) if config.transform is not None else None
        self.out = Linear(config.transform.dim if config.transform else dim, config.num_labels, config.bias)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        x = ends.pool(hidden, self.config.pool)
        x = x if self.transform is None else self.transform(x)
        return {"logits": self.out(dropped(x, self.config.dropout, self.training))}


@builds(TokenHeadConfig)
class TokenHead(nn.Module):
    """One label per token; `logits` (..., labels)."""

    def __init__(self, config: TokenHeadConfig, dim: int):
        super().__init__()
        self.config = config
        self.out = Linear(dim, config.num_labels, config.bias)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        return {"logits": self.out(dropped(hidden, self.config.dropout, self.training))}


@builds(SpanHeadConfig)
class SpanHead(nn.Module):
    """Where an answer starts and ends; `start_logits` and `end_logits` (...)."""

    def __init__(self, config: SpanHeadConfig, dim: int):
        super().__init__()
        self.config = config
        self.out = Linear(dim, 2, config.bias)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        start, end = self.out(dropped(hidden, self.config.dropout, self.training)).unbind(-1)
        return {"start_logits": start, "end_logits": end}
