"""Attention and its kernels against the formula, written with loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from regard.config import AttentionConfig, NormConfig, RopeConfig
from regard.nn import Causal, KVCache, Mask, Prefix, Segments, Unsupported, Window, attend, attention_weights, build
from regard.nn.attention import Attend, dropout
from regard.nn.context import cached, packed, padded, with_memory

POSITIONS = torch.arange(6).expand(2, 6)


@torch.no_grad()
def slow(q, k, v, allowed, *, scale=None, softcap=None, bias=None):
    """Softmax attention one query at a time: q (B, H, Tq, D), k, v (B, Hkv, Tk, D), allowed(b, i, j) -> bool."""
    out = torch.zeros(*q.shape[:3], v.shape[-1])
    per_kv = q.shape[1] // k.shape[1]
    for b, h, i in itertools.product(range(q.shape[0]), range(q.shape[1]), range(q.shape[2])):
        seen = [j for j in range(k.shape[2]) if allowed(b, i, j)]
        scores = []
        for j in seen:
            s = float(q[b, h, i] @ k[b, h // per_kv, j]) * (q.shape[-1] ** -0.5 if scale is None else scale)
            s = s if softcap is None else softcap * math.tanh(s / softcap)
            scores.append(s + (0.0 if bias is None else float(bias[b % bias.shape[0], h, i, j])))
        total = sum(math.exp(s) for s in scores)
        for j, s in zip(seen, scores, strict=True):
            out[b, h, i] += math.exp(s) / total * v[b, h // per_kv, j]
    return out


def qkv(heads=4, kv_heads=4, tq=6, tk=6):
    return torch.randn(2, heads, tq, 8), torch.randn(2, kv_heads, tk, 8), torch.randn(2, kv_heads, tk, 8)


def near(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "auto"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_kernels_follow_the_formula_with_grouped_heads(kernel, kv_heads):
    q, k, v = qkv(kv_heads=kv_heads, tk=9)
    near(attend(q, k, v, kernel=kernel)[0], slow(q, k, v, lambda b, i, j: True))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_kernels_honour_mask_bias_and_scale_at_once(kernel):
    q, k, v = qkv(kv_heads=2)
    mask, bias = torch.rand(2, 1, 6, 6) < 0.6, torch.randn(1, 4, 6, 6)
    mask |= torch.eye(6, dtype=torch.bool)
    out, _ = attend(q, k, v, mask=mask, bias=bias, scale=0.7, kernel=kernel)
    near(out, slow(q, k, v, lambda b, i, j: bool(mask[b, 0, i, j]), scale=0.7, bias=bias))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("biased", [False, True])
def test_kernels_know_the_word_causal(kernel, biased):
    q, k, v = qkv()
    bias = torch.randn(1, 4, 6, 6) if biased else None
    out, _ = attend(q, k, v, mask="causal", bias=bias, kernel=kernel)
    near(out, slow(q, k, v, lambda b, i, j: j <= i, bias=bias))


def test_softcap_bounds_the_scores():
    q, k, v = (10 * x for x in qkv())
    near(attend(q, k, v, softcap=3.0)[0], slow(q, k, v, lambda b, i, j: True, softcap=3.0), 1e-4)
    weights = attention_weights(q, k, softcap=3.0)
    assert float((weights.amax(-1) / weights.amin(-1)).max()) < math.exp(6) + 1  # scores lie within -3 and 3


def test_weights_are_those_that_made_the_output():
    q, k, v = qkv(kv_heads=2)
    out, weights = attend(q, k, v, mask="causal", need_weights=True)
    assert weights.shape == (2, 4, 6, 6) and not weights.triu(1).any()
    near(weights.sum(-1), torch.ones(2, 4, 6))
    near(weights @ v.repeat_interleave(2, 1), out)


def test_kernels_refuse_what_they_cannot_do():
    q, k, v = qkv()
    with pytest.raises(Unsupported, match=r"'sdpa' cannot cap scores \(softcap=5.0\)"):
        attend(q, k, v, softcap=5.0, kernel="sdpa")
    with pytest.raises(ValueError, match="kernel is 'flash'; allowed: auto, eager, sdpa"):
        attend(q, k, v, kernel="flash")


def test_dropout_drops_while_training_only():
    q, k, v = qkv()
    heart = Attend(None, None, 0.5)
    assert not torch.equal(heart(q, k, v, None, None), heart(q, k, v, None, None))
    assert torch.equal(heart.eval()(q, k, v, None, None), heart(q, k, v, None, None))


MASKS = {
    "all": (None, lambda i, j: True),
    "causal": (Causal(), lambda i, j: j <= i),
    "window": (Window(size=2), lambda i, j: abs(i - j) < 2),
    "sliding": (Causal() & Window(size=3), lambda i, j: i - 3 < j <= i),
    "prefix": (Causal() | Prefix(size=2), lambda i, j: j <= i or j < 2),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_masks_mean_what_they_say(name, padding):
    mask, allowed = MASKS[name]
    layer = build(AttentionConfig(num_heads=4, head_dim=8, num_kv_heads=2, mask=mask), 24)
    x, real = torch.randn(2, 6, 24), torch.ones(2, 6, dtype=torch.bool)
    if padding == "none":
        ctx, positions = padded(POSITIONS, aligned=True), POSITIONS
    else:
        real[1, slice(4, 6) if padding == "right" else slice(0, 2)] = False
        positions = (real.long().cumsum(1) - 1).clamp(min=0)
        ctx = padded(positions, real)

    def sees(b, i, j):
        return bool(real[b, j]) and (not bool(real[b, i]) or allowed(int(positions[b, i]), int(positions[b, j])))

    q, k, v = (linear(x).unflatten(-1, (-1, 8)).transpose(1, 2) for linear in (layer.q, layer.k, layer.v))
    expected = layer.out(slow(q, k, v, sees).transpose(1, 2).flatten(-2))
    near(layer(x, ctx)[real], expected[real])


def test_segments_share_a_row_and_do_not_see_each_other():
    layer = build(AttentionConfig(num_heads=2, head_dim=4, mask=Causal() & Segments()), 8)
    one, two = torch.randn(1, 4, 8), torch.randn(1, 3, 8)
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    both = layer(torch.cat([one, two], 1), padded(positions, segments=segments))
    alone = [layer(x, padded(torch.arange(x.shape[1])[None], segments=torch.zeros(1, x.shape[1]))) for x in (one, two)]
    near(both, torch.cat(alone, 1))


def test_a_mask_without_meaning_is_an_error():
    with pytest.raises(TypeError, match="Mask does not say what it allows"):
        Mask().allows(None, None)


@pytest.mark.parametrize(
    "config",
    [
        AttentionConfig(num_heads=4, head_dim=6),
        AttentionConfig(num_heads=4, head_dim=6, num_kv_heads=1, softcap=2.0, mask=Causal()),
        AttentionConfig(num_heads=4, head_dim=6, rope=RopeConfig(dim=4), mask=Causal() & Window(size=3)),
        AttentionConfig(num_heads=4, head_dim=6, qk_norm=NormConfig(kind="rms"), scale=1.0, mask=Causal()),
        AttentionConfig(num_heads=4, head_dim=6, qk_norm=NormConfig(), qk_norm_over="all"),
    ],
    ids=["plain", "grouped and capped", "rotary window", "head norm", "wide norm"],
)
def test_packed_equals_padded_equals_single(config):
    layer = build(config, 20)
    lengths = (3, 5, 5, 1)
    rows = [torch.randn(n, 20) for n in lengths]
    single = [layer(row[None], padded(torch.arange(len(row))[None], aligned=True))[0] for row in rows]
    near(layer(torch.cat(rows), packed(lengths, torch.device("cpu"))), torch.cat(single))
    real = torch.arange(5) < torch.tensor(lengths)[:, None]
    x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=100.0)
    near(layer(x, padded(torch.arange(5).expand(4, 5), real))[real], torch.cat(single))


def test_cross_attention_reads_memory_in_every_layout_and_once_with_a_cache():
    layer = build(AttentionConfig(num_heads=2, head_dim=4), 8, 12)
    texts, memories = [torch.randn(n, 8) for n in (3, 3, 2)], [torch.randn(n, 12) for n in (4, 4, 6)]
    single = []
    for x, m in zip(texts, memories, strict=True):
        q, k, v = (
            linear(y).unflatten(-1, (-1, 4)).transpose(0, 1)[None]
            for linear, y in ((layer.q, x), (layer.k, m), (layer.v, m))
        )
        single.append(layer.out(slow(q, k, v, lambda b, i, j: True)[0].transpose(0, 1).flatten(-2)))
    ctx = with_memory(packed((3, 3, 2), torch.device("cpu")), torch.cat(memories), None, (4, 4, 6))
    near(layer(torch.cat(texts), ctx), torch.cat(single))
    memory = torch.nn.utils.rnn.pad_sequence(memories, batch_first=True, padding_value=50.0)
    valid = torch.arange(6) < torch.tensor([4, 4, 6])[:, None]
    x, cache = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), KVCache()
    for step in range(2):  # the second time from what the cache kept: the memory passed in is not read
        ctx = with_memory(cached(torch.arange(3).expand(3, 3), (3, 3, 3), KVCache()), memory * (1 - step), valid, None)
        ctx.cache = cache
        out = layer(x, ctx)
        for i, expected in enumerate(single):
            near(out[i, : len(expected)], expected)


def test_packed_pairs_must_change_length_together():
    ctx = packed((3, 3, 2), torch.device("cpu"))
    with pytest.raises(ValueError, match="memory of one length"):
        with_memory(ctx, torch.randn(12, 4), None, (4, 5, 3))
    with pytest.raises(ValueError, match="need packed memory"):
        with_memory(ctx, torch.randn(3, 4, 4), None, None)
    groups = with_memory(ctx, torch.randn(12, 4), None, (4, 4, 4)).memory_groups
    assert [group.k.positions.shape[1] for group in groups] == [4, 4]


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_dropout_keeps_the_mean_and_repeats_with_its_seed(p):
    x = torch.full((401, 257), 2.0, requires_grad=True)
    torch.manual_seed(3)
    y = dropout(x.mT, p)
    kept = y != 0
    count = x.numel()
    assert abs(float(kept.float().mean()) - (1 - p)) < 5 * math.sqrt(p * (1 - p) / count)
    near(y[kept], torch.full_like(y[kept], 2 / (1 - p)), 1e-3)
    assert abs(torch.corrcoef(torch.stack([kept.flatten()[:-1], kept.flatten()[1:]]).float())[0, 1]) < 5 / count**0.5
    y.sum().backward()
    near(x.grad.mT, y.detach() / 2)
    torch.manual_seed(3)
    assert torch.equal(dropout(x.mT, p), y)
