"""New weights: their spread, by scheme."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from regard.config import (
    AttentionConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LayerConfig,
    NormConfig,
    RelativeBiasConfig,
    StackConfig,
)
from regard.nn import build, initialise


def stack(**attention):
    layer = LayerConfig(
        norm=NormConfig(),
        attention=AttentionConfig(num_heads=8, head_dim=16, **attention),
        feed_forward=FeedForwardConfig(hidden_dim=512),
    )
    bias = RelativeBiasConfig(num_heads=8, num_buckets=64, max_distance=128, bidirectional=True)
    return build(StackConfig(dim=256, layers=(layer, layer), bias=bias))


def spread(weight):
    return float(weight.detach().std())


def test_normal_draws_everything_and_leaves_norms_and_biases_at_their_start():
    module = nn.ModuleList([stack(), build(EmbeddingConfig(vocab_size=300, dim=64)), nn.Conv1d(64, 64, 3)])
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.fill_(9.0)
    initialise(module, InitConfig(std=0.03, embedding_std=0.5))
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d)):
            assert spread(part.weight) == pytest.approx(0.03, rel=0.05) and not part.bias.any()
        elif isinstance(part, nn.Embedding):
            assert spread(part.weight) == pytest.approx(0.5, rel=0.1)
        elif isinstance(part, nn.LayerNorm):
            assert torch.equal(part.weight, torch.ones(256)) and not part.bias.any()


def test_xavier_is_uniform_within_glorots_bound():
    module = stack()
    initialise(module, InitConfig(scheme="xavier"))
    weight = module.layers[0].ffn.fn.up.weight.detach()
    bound = math.sqrt(6 / (256 + 512))
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert spread(weight) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_fan_in_puts_the_missing_scale_of_scores_into_the_query():
    module = stack(scale=1.0)
    initialise(module, InitConfig(scheme="fan_in", std=256**-0.5, embedding_std=1.0))
    attention, ffn = module.layers[0].attn.fn, module.layers[0].ffn.fn
    assert spread(attention.q.weight) == pytest.approx((256 * 16) ** -0.5, rel=0.03)
    assert spread(attention.k.weight) == pytest.approx(256**-0.5, rel=0.03)
    assert spread(attention.out.weight) == pytest.approx(128**-0.5, rel=0.03)
    assert spread(ffn.down.weight) == pytest.approx(512**-0.5, rel=0.03)
    assert spread(module.bias.table.weight) == pytest.approx(256**-0.5, rel=0.1)


def test_residual_narrows_the_last_linear_of_each_branch():
    module = stack()
    initialise(module, InitConfig(std=0.02, residual=True))
    layer = module.layers[1]
    for last in (layer.attn.fn.out, layer.ffn.fn.down):
        assert spread(last.weight) == pytest.approx(0.02 / math.sqrt(4), rel=0.03)  # two layers of two branches
    assert spread(layer.ffn.fn.up.weight) == pytest.approx(0.02, rel=0.03)


def test_a_generator_makes_the_draw_repeatable():
    one, two = stack(), stack()
    for module in (one, two):
        torch.randn(3)  # the global state must not matter
        initialise(module, InitConfig(), torch.Generator().manual_seed(7))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
