"""Attention: self or cross, many heads or few key/value heads, rotary or not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import AttentionConfig, NormConfig
from regard.nn.build import build, builds
from regard.nn.context import Context, Group, begun, joined, rectangles
from regard.nn.kernels import attend
from regard.nn.linear import Linear
from regard.nn.position import rotate


class Attend(nn.Module):
    """The parameterless heart of attention: scores, softmax, weighted sum. Hooks on it see any kernel's inputs."""

    def __init__(self, scale: float | None, softcap: float | None, dropout: float):
        super().__init__()
        self.scale, self.softcap, self.dropout = scale, softcap, dropout
        self.kernel = "auto"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """q (B, H, Tq, D), k and v (B, Hkv, Tk, D) -> (B, H, Tq, D)."""
        dropout = self.dropout if self.training else 0.0
        return attend(
            q, k, v, mask=mask, bias=bias, scale=self.scale, softcap=self.softcap, dropout=dropout, kernel=self.kernel
        )[0]

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"


@builds(AttentionConfig)
class Attention(nn.Module):
    """Multi-head attention over the tokens themselves, or over `ctx.memory` where `memory_dim` is given.

    (..., C) -> (..., C) in whatever layout the context describes. Projections are always four separate linears; fused
    checkpoints are split when read. Relative schemes override `score_bias` and nothing else.
    """

    def __init__(self, config: AttentionConfig, dim: int, memory_dim: int | None = None):
        super().__init__()
        self.config, self.is_cross = config, memory_dim is not None
        inner, inner_kv = config.num_heads * config.head_dim, config.kv_heads * config.head_dim
        source = dim if memory_dim is None else memory_dim
        self.q = Linear(dim, inner, config.bias[0])
        self.k = Linear(source, inner_kv, config.bias[1])
        self.v = Linear(source, inner_kv, config.bias[2])
        self.out = Linear(inner, dim, config.bias[3])
        self.q_norm = self._qk_norm(config.qk_norm, inner)
        self.k_norm = self._qk_norm(config.qk_norm, inner_kv)
        self.attend = Attend(config.scale, config.softcap, config.dropout)

    def _qk_norm(self, norm: NormConfig | None, inner: int) -> nn.Module | None:
        width = inner if self.config.qk_norm_over == "all" else self.config.head_dim
        return None if norm is None else build(norm, width)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        if self.is_cross:
            return self._cross(x, ctx)
        c = self.config
        q, k, v = self._heads(self.q(x), self.q_norm), self._heads(self.k(x), self.k_norm), self._heads(self.v(x), None)
        turned = k
        if c.rope is not None:
            q = rotate(q, *ctx.rotary(c.rope), c.rope.interleaved)
            turned = rotate(k, *ctx.rotary(c.rope), c.rope.interleaved)
        ks, vs = rectangles(turned, ctx.lengths), rectangles(v, ctx.lengths)
        if ctx.cache is not None:
            late = c.rope is not None and c.rope.by_length  # kept as they are, turned when read (2309.00071, 3.3)
            keys, values = ctx.cache.update(ctx.layer, k if late else turned, v)
            if ctx.lengths is None:  # packed rows are new: what they may see is all at hand
                ks, vs = [self._turned_late(keys, ctx) if late else keys], [values]
            elif ctx.groups[0].k is not ctx.groups[0].q:  # ... unless they had begun before
                if late:
                    raise ValueError("rotary positions by a row's length take no packed rows that had begun")
                ks, vs = begun(keys, ctx.groups), begun(values, ctx.groups)
        return self._attended(q, ks, vs, ctx.groups, ctx)

    def _turned_late(self, keys: Tensor, ctx: Context) -> Tensor:  # (B, Hkv, S, D)
        rope = self.config.rope
        assert rope is not None
        cos, sin = ctx.rotary(rope, keys=True)
        return rotate(keys, cos.transpose(1, 2), sin.transpose(1, 2), rope.interleaved)

    def _cross(self, x: Tensor, ctx: Context) -> Tensor:
        q = self._heads(self.q(x), self.q_norm)
        kept = ctx.cache.memory(ctx.layer) if ctx.cache is not None else None
        if kept is not None:
            return self._attended(q, [kept[0]], [kept[1]], ctx.memory_groups, ctx)
        assert ctx.memory is not None, "cross-attention needs a context with memory"
        valid = None if ctx.cache is None or ctx.memory_lengths is not None else ctx.memory_groups[0].k_valid
        memory = ctx.memory if valid is None else ctx.memory[valid]  # padding is not worth a product
        k, v = self._heads(self.k(memory), self.k_norm), self._heads(self.v(memory), None)
        if valid is not None:
            k, v = (x.new_zeros(*valid.shape, *x.shape[1:]).index_put_((valid,), x) for x in (k, v))
        ks, vs = (rectangles(part, ctx.memory_lengths, ctx.memory_counts) for part in (k, v))
        if ctx.cache is not None and len({part.shape[2] for part in ks}) == 1:  # one length: a rectangle to keep
            ctx.cache.keep_memory(ctx.layer, *(p[0] if len(p) == 1 else torch.cat(p) for p in (ks, vs)))
        return self._attended(q, ks, vs, ctx.memory_groups, ctx)

    def _heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:  # (..., H * D) -> (..., H, D)
        if norm is not None and self.config.qk_norm_over == "all":
            return norm(x).unflatten(-1, (-1, self.config.head_dim))
        x = x.unflatten(-1, (-1, self.config.head_dim))
        return x if norm is None else norm(x)

    def _attended(self, q: Tensor, ks: list[Tensor], vs: list[Tensor], groups: list[Group], ctx: Context) -> Tensor:
        parts = []
        for group, qi, ki, vi in zip(groups, rectangles(q, ctx.lengths), ks, vs, strict=True):
            parts.append(self.attend(qi, ki, vi, group.mask(self.config.mask), self.score_bias(qi, ki, group)))
        return self.out(joined(parts, ctx.lengths).flatten(-2))

    def score_bias(self, q: Tensor, k: Tensor, group: Group) -> Tensor | None:
        """Scores to add, broadcastable to (B, H, Tq, Tk): the one override point for relative attention.

        q (B, H, Tq, D), k (B, Hkv, Tk, D); the group tells positions and what the stack shares.
        """
        return None if self.is_cross else group.bias


def dropped(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout that costs nothing when idle."""
    return dropout(x, p) if training and p else x


def dropout(x: Tensor, p: float) -> Tensor:
    """Numbers become 0 with probability p, the rest grow. On a CPU 16 random bits decide: three times as fast as
    torch's own, with p to within 1e-5."""
    cut = round(p * 2**16)
    if x.device.type != "cpu" or cut == 2**16 or torch.compiler.is_compiling():
        return F.dropout(x, p)
    drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = drawn[: x.numel()].view(x.shape) >= cut - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - cut))
