"""Score biases: distance buckets by the paper's definition, and the slopes that the ALiBi authors published."""

from __future__ import annotations

import math

import pytest
import torch

from regard.config import AlibiConfig, RelativeBiasConfig
from regard.nn import build


def bucket(distance, *, buckets, far, bidirectional):
    """T5's rule for one distance key - query: half of the buckets exact, the rest logarithmic up to `far`."""
    start = 0
    if bidirectional:
        buckets //= 2
        start = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return start + distance
    log = math.log(distance / exact) / math.log(far / exact) * (buckets - exact)
    return start + min(buckets - 1, exact + int(log + 1e-9))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (8, 20)])
def test_relative_bias_looks_up_the_bucket_of_each_distance(bidirectional, buckets, far):
    config = RelativeBiasConfig(num_heads=3, num_buckets=buckets, max_distance=far, bidirectional=bidirectional)
    module = build(config)
    assert module.table.weight.shape == (buckets, 3)
    q, k = torch.tensor([[0, 150, 400]]), torch.arange(0, 420, 1)[None]
    scores = module(q, k)
    assert scores.shape == (1, 3, 3, 420)
    for i, query in enumerate(q[0].tolist()):
        for j, key in enumerate(k[0].tolist()):
            expected = bucket(key - query, buckets=buckets, far=far, bidirectional=bidirectional)
            assert torch.equal(scores[0, :, i, j], module.table.weight[expected]), key - query


def test_relative_bias_equals_the_references_buckets():
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="no reference library (extra: oracle)")
    distance = torch.arange(-300, 300)
    for bidirectional in (True, False):
        config = RelativeBiasConfig(num_heads=1, num_buckets=32, max_distance=128, bidirectional=bidirectional)
        theirs = t5.T5Attention._relative_position_bucket(distance, bidirectional, 32, 128)
        assert torch.equal(build(config).buckets(distance), theirs)


def test_alibi_slopes_are_the_published_ones():
    # 2108.12409, section 3: "for models with 8 heads ... 1/2, 1/4, ... 1/256"; for 16 heads the square roots between.
    assert build(AlibiConfig(num_heads=8)).slopes() == [2.0**-i for i in range(1, 9)]
    sixteen = build(AlibiConfig(num_heads=16)).slopes()
    assert sixteen == pytest.approx([2.0 ** (-i / 2) for i in range(1, 17)])
    # The authors' code for other counts: those of the power of two below, then every other one of the power above.
    assert build(AlibiConfig(num_heads=12)).slopes() == pytest.approx([2.0**-i for i in range(1, 9)] + sixteen[0:8:2])


def test_alibi_grows_with_distance():
    scores = build(AlibiConfig(num_heads=8))(torch.tensor([[5]]), torch.arange(6)[None])
    assert scores.shape == (1, 8, 1, 6)
    assert scores[0, 0, 0].tolist() == [-2.5, -2.0, -1.5, -1.0, -0.5, 0.0]
