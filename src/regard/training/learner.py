"""A model and its objective as one module, so that any strategy sees one forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from regard.models.model import Model
from regard.training.base import Batch, Objective


class Learner(nn.Module):
    """Batch -> sum of losses; with `predict`, also what the model says and what is right."""

    def __init__(self, model: Model, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, predict: bool = False) -> Tensor | tuple[Tensor, list[Any], list[Any]]:
        loss = self.objective(self.model, batch)
        return (loss, *self.objective.predict(self.model, batch)) if predict else loss
