"""Norms, residual branches and stacks, each against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.config import AttentionConfig, FeedForwardConfig, LayerConfig, NormConfig, StackConfig
from regard.nn import ACTIVATIONS, Causal, Layer, RMSNorm, Sublayer, build
from regard.nn.context import packed, padded

CTX = padded(torch.arange(5)[None], aligned=True)


class Double(nn.Module):
    def forward(self, x, ctx):
        return 2 * x + 1


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(offset):
    norm, x = RMSNorm(16, 1e-6, offset), 3 * torch.randn(2, 5, 16)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())  # new: a factor of one
    nn.init.normal_(norm.weight)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (norm.weight + offset)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_works_in_float32_inside(offset):
    norm, x = RMSNorm(16, 1e-6, offset).bfloat16(), torch.full((1, 16), 300.0).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).float(), torch.ones(1, 16), atol=1e-2, rtol=0)
    big = torch.full((1, 16), 1000.0).half()  # its square is beyond float16
    torch.testing.assert_close(RMSNorm(16, 1e-6, offset).half()(big), torch.ones(1, 16).half())


ORDERS = {
    "pre": lambda x, f, norm, post: x + f(norm(x)),
    "post": lambda x, f, norm, post: norm(x + f(x)),
    "branch": lambda x, f, norm, post: x + norm(f(x)),
    "sandwich": lambda x, f, norm, post: x + post(f(norm(x))),
}


@pytest.mark.parametrize("order", ORDERS)
def test_sublayer_orders(order):
    sublayer = Sublayer(Double(), LayerConfig(norm=NormConfig(), order=order), 8)
    for parameter in sublayer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 5, 8)
    expected = ORDERS[order](x, lambda y: 2 * y + 1, sublayer.norm, sublayer.post_norm)
    torch.testing.assert_close(sublayer(x, CTX), expected)
    assert (sublayer.post_norm is not None) == (order == "sandwich")


TANH = torch.tensor(0.3).tanh().item()


@pytest.mark.parametrize(("kind", "factor"), [("layer", 0.3), ("tanh", TANH), ("tanh_layer", TANH)])
def test_branch_scales(kind, factor):
    sublayer = Sublayer(Double(), LayerConfig(norm=NormConfig(), scale=kind, scale_init=0.3), 8)
    x = torch.randn(1, 5, 8)
    torch.testing.assert_close(sublayer(x, CTX), x + factor * (2 * sublayer.norm(x) + 1))


def test_residual_dropout_drops_the_branch_only():
    sublayer = Sublayer(Double(), LayerConfig(norm=NormConfig(), dropout=0.5), 64)
    x = torch.randn(1, 200, 64)
    added = sublayer(x, CTX) - x
    full = 2 * sublayer.norm(x) + 1
    dropped = (added.abs() < 1e-5) & (full.abs() > 1e-3)
    assert float(dropped.float().mean()) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(added[~dropped & (full.abs() > 1e-3)], 2 * full[~dropped & (full.abs() > 1e-3)])


def config(**changes):
    attention = AttentionConfig(num_heads=2, head_dim=4)
    return LayerConfig(norm=NormConfig(), attention=attention, feed_forward=FeedForwardConfig(hidden_dim=12), **changes)


def test_a_layer_runs_its_branches_in_order_or_side_by_side():
    x = torch.randn(1, 5, 8)
    layer = build(config(), 8)
    assert [type(s.fn).__name__ for s in layer.sublayers()] == ["Attention", "FeedForward"]
    torch.testing.assert_close(layer(x, CTX), layer.ffn(layer.attn(x, CTX), CTX))
    layer = build(config(parallel=True), 8)
    attn, ffn = layer.attn, layer.ffn
    torch.testing.assert_close(layer(x, CTX), x + attn.fn(attn.norm(x), CTX) + ffn.fn(ffn.norm(x), CTX))


def test_absent_parts_are_absent():
    layer = build(LayerConfig(norm=NormConfig(), feed_forward=FeedForwardConfig(hidden_dim=12)), 8)
    assert isinstance(layer, Layer) and [name for name, _ in layer.named_children()] == ["ffn"]


def test_a_schedule_repeats_layers_that_share_weights():
    x = torch.randn(1, 5, 8)
    stack = build(StackConfig(dim=8, layers=(config(), config()), schedule=(0, 1, 1, 0), final_norm=NormConfig()))
    a, b = stack.layers
    for module in (a, b):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.2)
    expected = x
    for layer in (a, b, b, a):
        expected = layer(expected, CTX)
    torch.testing.assert_close(stack(x, padded(torch.arange(5)[None], aligned=True)), stack.norm(expected))


def test_a_layers_own_mask_stands_before_the_stacks():
    open_layer = config()
    looks_back = config()
    looks_back = looks_back.replace(attention=looks_back.attention.replace(mask=Causal()))
    stack = build(StackConfig(dim=8, layers=(looks_back,)))
    x = torch.randn(1, 5, 8)
    changed = x.clone()
    changed[0, 4] += 1

    def first(stack, x):
        return stack(x, padded(torch.arange(5)[None], aligned=True))[0, 0]

    assert torch.equal(first(stack, x), first(stack, changed))
    stack = build(StackConfig(dim=8, layers=(open_layer,)))
    assert not torch.equal(first(stack, x), first(stack, changed))
    stack = build(StackConfig(dim=8, layers=(open_layer,), mask=Causal()))
    assert torch.equal(first(stack, x), first(stack, changed))


@pytest.mark.parametrize("order", ["pre", "post"])
def test_branches_left_out_of_whole_rows(order):
    config = LayerConfig(norm=NormConfig(), order=order, drop_path=0.25)
    sublayer, rows = Sublayer(Double(), config, 8).train(), 2000
    x = torch.randn(rows, 3, 8)

    def expected(kept):
        inner = sublayer.norm(x) if order == "pre" else x
        y = x + kept[:, None, None] * (2 * inner + 1) / 0.75
        return y if order == "pre" else sublayer.norm(y)

    ctx = padded(torch.arange(3).expand(rows, 3), aligned=True)
    for found in (sublayer(x, ctx), sublayer(x.flatten(0, 1), packed([3] * rows, x.device)).unflatten(0, (rows, 3))):
        kept = (found - expected(torch.ones(rows))).abs().amax((1, 2)) < 1e-5
        assert 0.72 < float(kept.float().mean()) < 0.78
        torch.testing.assert_close(found, expected(kept.float()))
    ragged = sublayer(torch.zeros(6, 8), packed([1, 2, 3], x.device))
    assert all(part.unique().numel() == 1 for part in ragged.split([1, 2, 3]))
    plain = Sublayer(Double(), config.replace(drop_path=0.0), 8)
    assert torch.equal(sublayer.eval()(x, ctx), plain(x, ctx)) and torch.equal(plain.train()(x, ctx), plain(x, ctx))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_branch_is_not_always_left_out(rate):
    with pytest.raises(ValueError, match=f"drop_path is {rate}; allowed: 0 to below 1"):
        LayerConfig(norm=NormConfig(), drop_path=rate)


def test_activations_at_a_point():
    at_one = {
        "gelu": 0.841345,
        "gelu_tanh": 0.841192,
        "quick_gelu": 0.845795,
        "relu": 1.0,
        "relu2": 1.0,
        "silu": 0.731059,
        "tanh": 0.761594,
        "sigmoid": 0.731059,
        "mish": 0.865098,
        "identity": 1.0,
    }
    assert at_one.keys() == ACTIVATIONS.keys()
    for name, value in at_one.items():
        assert float(ACTIVATIONS[name](torch.tensor(1.0))) == pytest.approx(value, abs=1e-6), name
    assert float(ACTIVATIONS["relu2"](torch.tensor(3.0))) == 9.0
    assert float(ACTIVATIONS["relu2"](torch.tensor(-3.0))) == 0.0
