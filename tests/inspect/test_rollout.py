"""Attention rollout against the formula, written out entry by entry."""

from __future__ import annotations

import pytest
import torch

from regard.inspect import rollout


def slow(weights: list[torch.Tensor], residual: float) -> torch.Tensor:
    batch, heads, size, _ = weights[0].shape
    out = torch.zeros(batch, size, size)
    for b in range(batch):
        total = [[1.0 if i == j else 0.0 for j in range(size)] for i in range(size)]
        for layer in weights:
            step = [[0.0] * size for _ in range(size)]
            for i in range(size):
                for j in range(size):
                    mean = sum(float(layer[b, h, i, j]) for h in range(heads)) / heads
                    step[i][j] = (1 - residual) * mean + (residual if i == j else 0.0)
            total = [[sum(step[i][k] * total[k][j] for k in range(size)) for j in range(size)] for i in range(size)]
        out[b] = torch.tensor(total)
    return out


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5])
def test_it_equals_the_formula(residual):
    weights = [torch.randn(2, 3, 5, 5).softmax(-1) for _ in range(4)]
    found = rollout(weights, residual=residual)
    torch.testing.assert_close(found, slow(weights, residual), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 5))


def test_what_only_looks_at_itself_stays_itself():
    weights = [torch.eye(4).expand(1, 2, 4, 4)] * 3
    assert torch.equal(rollout(weights)[0], torch.eye(4))


@pytest.mark.parametrize("weights", [[], [torch.ones(1, 2, 3, 4)], [torch.ones(3, 3)]])
def test_other_shapes_are_refused(weights):
    with pytest.raises(ValueError, match=r"\(B, H, T, T\)"):
        rollout(weights)
