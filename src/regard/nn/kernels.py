"""softmax(q k^T) v: one signature, several ways to compute it.

A kernel that cannot honour an argument raises `Unsupported`; none ever drops a mask or falls back in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CausalMask = Literal["causal"]
Kernel = Callable[..., Tensor]
KERNELS: dict[str, Kernel] = {}


class Unsupported(ValueError):
    """A kernel was asked for something it cannot do."""


def kernel(name: str) -> Callable[[Kernel], Kernel]:
    """Register a kernel `(q, k, v, mask, bias, scale, softcap, dropout) -> out` under a name."""

    def register(function: Kernel) -> Kernel:
        KERNELS[name] = function
        return function

    return register


def attention_weights(
    q: Tensor,
    k: Tensor,
    *,
    mask: Tensor | CausalMask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(cap(q k^T * scale) + bias) under the mask (1706.03762, 3.2.1), for any kernel's inputs.

    q (B, H, Tq, D), k (B, Hkv, Tk, D) -> (B, H, Tq, Tk), rows summing to 1.
    """
    if k.shape[1] != q.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril() if mask == "causal" else mask
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.float32).type_as(q)


@kernel("eager")
def eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | CausalMask | None,
    bias: Tensor | None,
    scale: float | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """The formula as written; holds the whole score matrix."""
    weights = attention_weights(q, k, mask=mask, bias=bias, scale=scale, softcap=softcap)
    if v.shape[1] != q.shape[1]:
        v = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    return F.dropout(weights, dropout, training=dropout > 0) @ v


@kernel("sdpa")
def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | CausalMask | None,
    bias: Tensor | None,
    scale: float | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """torch's fused kernel; scores are never held. No softcap."""
    if softcap is not None:
        raise Unsupported(f"kernel 'sdpa' cannot cap scores (softcap={softcap}); use 'eager' or 'auto'")
    causal = mask == "causal"
    if causal and bias is not None:
        tril = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        mask, causal = tril, False
    blend = mask if isinstance(mask, Tensor) else None
    if bias is not None:
        blend = bias if blend is None else bias.masked_fill(~blend, torch.finfo(bias.dtype).min)
        blend = blend.to(q.dtype)
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, blend, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | CausalMask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    need_weights: bool = False,
    kernel: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Attention over rectangles of queries and keys.

    q (B, H, Tq, D), k and v (B, Hkv, Tk, D); `mask` is True where a query may look, broadcastable to (B, H, Tq, Tk), or
    "causal" for equal lengths; `bias` is added to the scores. Returns (out (B, H, Tq, D), weights (B, H, Tq, Tk) or
    None). `kernel` is a registered name; "auto" takes the fused one unless scores are capped.
    Raises ValueError for an unknown kernel or one that cannot do what is asked.
    """
    name = ("eager" if softcap is not None else "sdpa") if kernel == "auto" else kernel
    if name not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}; allowed: auto, {', '.join(sorted(KERNELS))}")
    out = KERNELS[name](q, k, v, mask, bias, scale, softcap, dropout)
    if not need_weights:
        return out, None
    return out, attention_weights(q, k, mask=mask, bias=bias, scale=scale, softcap=softcap)
