"""Images beside words, each brick against a slow formula written here."""

from __future__ import annotations

import pytest
import torch

from regard.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
)
from regard.config.vision import PatchesConfig
from regard.models import model as _  # noqa: F401  registers towers
from regard.models._beside import ImagesBesideConfig, ResamplerConfig, ResamplingLayerConfig
from regard.nn import KVCache, TanhGate, build

FREE = AttentionConfig(num_heads=2, head_dim=4, bias=(False,) * 4)
AFTER = FeedForwardConfig(hidden_dim=12, activation="relu", bias=False)


def rough(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def weighed(q, k, v):
    """softmax(q k^T / 2) v of one head, number by number: (T, 4), (S, 4), (S, 4)."""
    out = []
    for query in q:
        scores = torch.tensor([float(query @ key) / 2 for key in k])
        share = (scores - scores.max()).exp()
        out.append(sum(s * value for s, value in zip(share / share.sum(), v, strict=True)))
    return torch.stack(out)


def looked(attention, asks, seen):
    """Queries of `asks` (T, 8), keys and values of `seen` (S, C), head by head."""
    q, k, v = asks @ attention.q.weight.T, seen @ attention.k.weight.T, seen @ attention.v.weight.T
    heads = [weighed(q[:, h : h + 4], k[:, h : h + 4], v[:, h : h + 4]) for h in (0, 4)]
    return torch.cat(heads, 1) @ attention.out.weight.T


@torch.no_grad()
def test_a_resampler_looks_at_what_is_seen_and_at_its_own_queries():
    layer = ResamplingLayerConfig(norm=NormConfig(), cross=FREE, feed_forward=AFTER)
    stack = StackConfig(dim=8, layers=(layer,) * 2, final_norm=NormConfig())
    module = rough(build(ResamplerConfig(count=3, stack=stack)))
    seen = torch.randn(2, 5, 8)
    expected = []
    for image in seen:
        x = module.query.weight
        for part in module.stack.layers:
            normed = part.cross.norm(x)
            x = x + looked(part.cross.fn, normed, torch.cat([part.memory_norm(image), normed]))
            x = x + (part.ffn.norm(x) @ part.ffn.fn.up.weight.T).relu() @ part.ffn.fn.down.weight.T
        expected.append(module.stack.norm(x))
    torch.testing.assert_close(module(seen), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_a_resampler_is_made_of_such_layers_alone():
    plain = LayerConfig(norm=NormConfig(), cross=FREE, feed_forward=AFTER)
    with pytest.raises(ValueError, match="layers that are ResamplingLayerConfig"):
        ResamplerConfig(count=3, stack=StackConfig(dim=8, layers=(plain,)))
    for wrong in ({"cross": None}, {"attention": FREE}, {"order": "post"}):
        with pytest.raises(ValueError, match="allowed"):
            ResamplingLayerConfig(**{"norm": NormConfig(), "cross": FREE, "feed_forward": AFTER, **wrong})


def reader():
    """A tower that reads words of 8 channels with one gated layer, and images of two patches of 6 channels."""
    patches = PatchesConfig(dim=6, size=(2, 4), patch=(2, 2), channels=1)
    vision = TowerConfig(front=patches, stack=StackConfig(dim=6, layers=()))
    gated = LayerConfig(norm=NormConfig(kind="rms"), cross=FREE, memory_dim=6, scale="tanh_layer", scale_init=0.4)
    front = ImagesBesideConfig(vocab_size=11, dim=8, vision=vision)
    return rough(build(TowerConfig(front=front, stack=StackConfig(dim=8, layers=(gated,)))))


@pytest.mark.parametrize("layout", ["padded", "packed", "cached"])
@torch.no_grad()
def test_each_word_sees_its_images_and_one_without_any_stays_as_it_is(layout):
    tower, ids = reader(), torch.randint(11, (2, 4))
    pixels = torch.randn(2, 3, 1, 2, 4)
    looks = torch.tensor([[[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], [[0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]]])
    if layout == "packed":
        named = {"lengths": [4, 4], "image_attention_mask": looks.flatten(0, 1)}
        found = tower(ids.flatten(), pixel_values=pixels, **named)[0].unflatten(0, (2, 4))
    elif layout == "cached":  # word by word
        cache, found = KVCache(), []
        for i in range(4):
            first = {"pixel_values": pixels} if i == 0 else {}
            step = {"image_attention_mask": looks[:, i : i + 1], "cache": cache, **first}
            found.append(tower(ids[:, i : i + 1], **step)[0])
        found = torch.cat(found, 1)
    else:
        found = tower(ids, pixel_values=pixels, image_attention_mask=looks)[0]
    layer, words = tower.stack.layers[0], tower.front.token.weight[ids]
    images = tower.front.see(pixels)  # (2, 3, 2 patches, 6)
    assert images.shape == (2, 3, 2, 6)
    for row in range(2):
        for t in range(4):
            x = words[row, t]
            chosen = images[row][looks[row, t].bool()].flatten(0, 1)
            if len(chosen):
                x = x + layer.cross.scale.weight.tanh() * looked(layer.cross.fn, layer.cross.norm(x)[None], chosen)[0]
            torch.testing.assert_close(found[row, t], x, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[0, 0], words[0, 0]) and torch.equal(found[1, 1], words[1, 1])


@torch.no_grad()
def test_rows_of_a_cache_keep_what_they_see():
    tower, ids, pixels = reader(), torch.randint(11, (2, 2)), torch.randn(2, 2, 1, 2, 4)
    looks, cache = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [0, 1]]]), KVCache()
    tower(ids, pixel_values=pixels, image_attention_mask=looks, cache=cache)
    cache.select(torch.tensor([1, 1, 0]))
    found = tower(torch.tensor([[4], [5], [4]]), cache=cache)[0]
    for out, row, word in zip(found, (1, 1, 0), (4, 5, 4), strict=True):
        told = {"pixel_values": pixels[row : row + 1], "image_attention_mask": looks[row : row + 1, 1:]}
        torch.testing.assert_close(out, tower(torch.tensor([[word]]), **told)[0][0], atol=1e-6, rtol=1e-5)


def test_a_gate_may_have_a_number_for_each_channel():
    gate, x = TanhGate(4, 0.5), torch.randn(2, 3, 4)
    torch.nn.init.normal_(gate.weight)
    for channel in range(4):
        torch.testing.assert_close(gate(x)[..., channel], x[..., channel] * gate.weight[channel].tanh())
    assert TanhGate(1, 0.5).weight.shape == (1,)
