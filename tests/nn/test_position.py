"""Positions: rotary angles as complex numbers, scalings as the reference computes them, sinusoids by the paper."""

from __future__ import annotations

import math

import pytest
import torch

from regard.config import LinearScaling, RopeConfig, SinusoidalPositions
from regard.models.base import Raw
from regard.models.common import rope
from regard.nn import rotary, rotate, sinusoids


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("dim", [8, 7])
def test_sinusoids_by_the_papers_formula(layout, dim):
    table = sinusoids(torch.arange(5000), dim, SinusoidalPositions(size=5000, layout=layout))
    assert table.shape == (5000, dim) and table.dtype == torch.float32
    for position in (0, 1, 17, 4999):
        sines = [math.sin(position / 10000 ** (2 * i / dim)) for i in range((dim + 1) // 2)]
        cosines = [math.cos(position / 10000 ** (2 * i / dim)) for i in range(dim // 2)]
        row = sines + cosines
        if layout == "interleaved":
            row = [(sines if i % 2 == 0 else cosines)[i // 2] for i in range(dim)]
        torch.testing.assert_close(table[position], torch.tensor(row), atol=1e-6, rtol=0)


def turned(x, positions, config):
    """Pairs of channels as complex numbers, times exp(i * position * theta ** (-2p / dim))."""
    d = config.dim
    pairs = [(2 * p, 2 * p + 1) if config.interleaved else (p, p + d // 2) for p in range(d // 2)]
    out = x.clone()
    for p, (a, b) in enumerate(pairs):
        angle = positions.double() * config.theta ** (-2 * p / d)
        z = (
            torch.complex(x[..., a].double(), x[..., b].double())
            * torch.polar(torch.ones_like(angle), angle)[..., None]
        )
        out[..., a], out[..., b] = z.real.float(), z.imag.float()
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [8, 4])
def test_rotation_is_a_complex_product(interleaved, dim):
    config = RopeConfig(dim=dim, theta=500.0, interleaved=interleaved)
    x, positions = torch.randn(2, 5, 3, 8), torch.randint(0, 100, (2, 5))
    out = rotate(x, *rotary(positions, config), interleaved)
    torch.testing.assert_close(out, turned(x, positions, config), atol=2e-5, rtol=0)
    assert torch.equal(out[..., dim:], x[..., dim:])


def test_rotated_scores_depend_on_distance_only():
    config = RopeConfig(dim=8)
    q, k = torch.randn(2, 1, 8)

    def score(i, j):
        turn = [rotate(x, *rotary(torch.tensor(p), config)) for x, p in ((q, i), (k, j))]
        return float((turn[0] * turn[1]).sum())

    assert score(3, 1) == pytest.approx(score(30, 28), abs=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_linear_scaling_divides_positions():
    plain, scaled = RopeConfig(dim=8), RopeConfig(dim=8, scaling=LinearScaling(factor=4.0))
    for a, b in zip(rotary(torch.arange(40) / 4, plain), rotary(torch.arange(40), scaled), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


BASE = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64, "rope_theta": 10000.0}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn tuned": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
        "truncate": False,
        "mscale": 0.7,
        "mscale_all_dim": 0.9,
    },
    "yarn fixed": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5, "original_max_position_embeddings": 32},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0 + i / 10 for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("length", [10, 100])
@pytest.mark.parametrize("name", SCALINGS)
def test_scalings_equal_the_references(name, length):
    transformers = pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    settings = SCALINGS[name]
    fields = {k: v for k, v in BASE.items() if k != "rope_theta"}
    config = transformers.LlamaConfig(**fields, rope_parameters={"rope_theta": BASE["rope_theta"], **settings})
    if "original_max_position_embeddings" in settings:  # the reference reads it from either place
        config.original_max_position_embeddings = settings["original_max_position_embeddings"]
    positions = torch.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    ours = rope(Raw({**BASE, "rope_scaling": settings}), 16)
    mine = rotary(positions, ours, torch.tensor([[length]]))
    for a, b in zip(mine, (cos, sin), strict=True):
        torch.testing.assert_close(a[..., 0, :], b, atol=2e-6 * length, rtol=0)


def test_a_part_of_the_channels_turns():
    half = {"rope_type": "default", "partial_rotary_factor": 0.5}
    assert rope(Raw({**BASE, "rope_parameters": half}), 16) == RopeConfig(dim=8)
    assert rope(Raw({**BASE, "partial_rotary_factor": 0.25}), 16) == RopeConfig(dim=4)


def test_growing_angles_follow_each_rows_own_length():
    config = rope(Raw({**BASE, "rope_scaling": SCALINGS["dynamic"]}), 16)
    assert config.by_length
    positions = torch.arange(100).expand(2, 100)
    both = rotary(positions, config, torch.tensor([[100], [20]]))
    for i, length in enumerate((100, 20)):
        alone = rotary(positions[i], config, torch.tensor([length]))
        assert all(torch.equal(a[i], b) for a, b in zip(both, alone, strict=True))
