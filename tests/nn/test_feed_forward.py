"""Feed-forward layers: dense, gated, and a mixture of experts against a loop over tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from regard.config import FeedForwardConfig, MoEConfig
from regard.nn import build
from regard.nn.context import packed, padded
from regard.nn.feed_forward import balance

CTX = padded(torch.arange(5).expand(2, 5), aligned=True)


def test_dense_and_gated():
    x = torch.randn(2, 5, 8)
    dense = build(FeedForwardConfig(hidden_dim=12, activation="relu"), 8)
    torch.testing.assert_close(dense(x, CTX), dense.down(F.relu(dense.up(x))))
    gated = build(FeedForwardConfig(hidden_dim=12, activation="silu", gated=True, bias=False), 8)
    torch.testing.assert_close(gated(x, CTX), gated.down(F.silu(gated.gate(x)) * gated.up(x)))
    assert all(linear.bias is None for linear in (gated.up, gated.gate, gated.down))


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_mixture_of_experts_token_by_token(top_k, renormalise):
    expert = FeedForwardConfig(hidden_dim=6, activation="silu", gated=True)
    moe = build(MoEConfig(num_experts=4, top_k=top_k, expert=expert, renormalise=renormalise), 8).eval()
    x = torch.randn(2, 5, 8)
    out = moe(x, CTX)
    for b in range(2):
        for t in range(5):
            p = F.softmax(moe.router.weight @ x[b, t], -1).detach()
            best = sorted(range(4), key=lambda i, p=p: -float(p[i]))[:top_k]
            total = sum(float(p[i]) for i in best) if renormalise else 1.0
            expected = sum(float(p[i]) / total * moe.experts[i](x[b, t], CTX) for i in best)
            torch.testing.assert_close(out[b, t], expected, atol=1e-5, rtol=1e-5)
    assert torch.allclose(moe(x.flatten(0, 1), packed((5, 5), x.device)), out.flatten(0, 1), atol=1e-6)


def test_balance_loss_counts_share_times_probability():
    moe = build(MoEConfig(num_experts=4, top_k=2, expert=FeedForwardConfig(hidden_dim=6), balance=0.1), 8)
    x, ctx = torch.randn(2, 5, 8), padded(torch.arange(5).expand(2, 5), aligned=True)
    moe.eval()(x, ctx)
    assert balance(ctx.routes) == []
    moe.train()(x, ctx)
    p = F.softmax(x.flatten(0, 1) @ moe.router.weight.T, -1)
    share = [sum(i in row.topk(2).indices.tolist() for row in p) / len(p) for i in range(4)]
    expected = 0.1 * 4 * sum(share[i] * float(p[:, i].mean()) for i in range(4))
    (loss,) = balance(ctx.routes)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert moe.router.weight.grad.abs().sum() > 0
