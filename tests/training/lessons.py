"""What the tests of objectives share: a reference model beside ours, rows, and the check that parts add up."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import regard
from regard.training.base import Batch, Objective, Row
from tests.models import oracle


def pair(family: str, variant: str, architecture: str) -> tuple[Any, regard.Model]:
    """A tiny reference model and ours with its weights, both in float64, without dropout."""
    theirs, folder = oracle.reference(family, variant, architecture)
    return copy.deepcopy(theirs).double().eval(), regard.load(str(folder)).double().eval()


def words(lengths: Sequence[int], *, seed: int = 0, low: int = 7, high: int = 97) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(low, high, n) for n in lengths]


def collate(objective: Objective, rows: Sequence[Row], seed: int = 0) -> Batch:
    """A batch whose floating point is as wide as the models'."""
    batch = objective.collate(rows, np.random.default_rng(seed))
    wide = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.inputs.items()}
    return Batch(wide, batch.targets, batch.count, batch.tokens)


def loss(objective: Objective, model: regard.Model, rows: Sequence[Row]) -> Tensor:
    return objective(model, collate(objective, rows))


def parts_add_up(objective: Objective, model: regard.Model, rows: Sequence[Row], cut: int) -> None:
    """The loss and the gradients of all rows are the sums of those of two parts, and counts as well."""

    def both(some: Sequence[Row]) -> tuple[int, Tensor, list[Tensor]]:
        batch = collate(objective, some)
        value = objective(model, batch)
        used = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(value, used, allow_unused=True)
        return batch.count, value, [torch.zeros_like(p) if g is None else g for p, g in zip(used, found, strict=True)]

    whole, first, second = both(rows), both(rows[:cut]), both(rows[cut:])
    assert whole[0] == first[0] + second[0]
    torch.testing.assert_close(whole[1], first[1] + second[1], rtol=1e-5, atol=0)
    assert any(g.any() for g in whole[2])
    for w, a, b in zip(whole[2], first[2], second[2], strict=True):
        torch.testing.assert_close(w, a + b, rtol=1e-4, atol=1e-6)


def padded(rows: Sequence[np.ndarray], fill: int) -> tuple[Tensor, Tensor]:
    """(B, T) padded on the right, and its mask."""
    width = max(map(len, rows))
    ids = torch.tensor(np.stack([np.pad(row, (0, width - len(row)), constant_values=fill) for row in rows]))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask
