"""Labels, several labels or numbers for a whole text, sound or image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.models.model import Model
from regard.training.base import Batch, Objective, Row
from regard.training.objectives.rows import array, by_size, outputs, read, sizes, tokens, with_added

Kind = Literal["single", "multi", "regression"]
KINDS: tuple[Kind, ...] = ("single", "multi", "regression")


class Classification(Objective):
    """A row's `labels`: one class ("single"), 0 or 1 for each class ("multi"), or one or more numbers ("regression").

    A row holds `input_ids`, `pixel_values`, `input_values` or `input_features`. The loss of a row is cross-entropy, or
    the mean over its classes of binary cross-entropy or of the squared error. `weights` are those of the classes, for
    "multi" those of their 1s. `smoothing` as in `losses.cross_entropy`, for "single", while training.
    """

    name = "classification"
    head = "classification"

    def __init__(self, *, kind: Kind = "single", weights: Sequence[float] | None = None, smoothing: float = 0.0):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; allowed: {', '.join(KINDS)}")
        if not 0 <= smoothing < 1 or (smoothing and kind != "single"):
            raise ValueError(f"smoothing is {smoothing}; allowed: 0 up to, but not, 1, and 0 unless kind is 'single'")
        if weights is not None and (kind == "regression" or not all(w >= 0 for w in weights)):
            raise ValueError(f"weights is {weights}; allowed: numbers of 0 or more, and None for 'regression'")
        self.kind, self.smoothing = kind, smoothing
        self.weights: Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights, dtype=torch.float32))

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        single = self.kind == "single"
        axes = {"single": 0, "multi": 1}.get(self.kind)
        labels = [array(rows, i, "labels", axes=axes, whole=single) for i in range(len(rows))]
        if len({label.shape for label in labels}) > 1:
            raise ValueError(f"labels has rows of {sorted({label.shape for label in labels})}; allowed: one shape")
        order = by_size(sizes(rows))
        inputs = read([rows[i] for i in order])
        found = torch.from_numpy(np.stack([labels[i] for i in order]))
        return Batch(inputs, {"labels": found if single else found.float()}, count=len(rows), tokens=tokens(inputs))

    def forward(self, model: Model, batch: Batch) -> Tensor:
        out, losses = outputs(model, batch.inputs)
        return with_added(self.row_losses(out["logits"], batch.targets["labels"]).sum(), losses, batch.count)

    def row_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores (B, classes) -> (B,)"""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = None if self.weights is None else self.weights.to(scores)
        if weights is not None and len(weights) != scores.shape[1]:
            raise ValueError(f"weights has {len(weights)} numbers; allowed: {scores.shape[1]}, one for each class")
        if self.kind == "single":
            _check_classes(labels, scores.shape[1])
            smoothing = self.smoothing if self.training else 0.0
            return F.cross_entropy(scores, labels, weights, reduction="none", label_smoothing=smoothing)
        labels = labels.to(scores).view(len(scores), -1)
        if labels.shape != scores.shape:
            raise ValueError(f"labels has {labels.shape[1]} numbers a row; the model's head has {scores.shape[1]}")
        if self.kind == "multi":
            return F.binary_cross_entropy_with_logits(scores, labels, reduction="none", pos_weight=weights).mean(1)
        return F.mse_loss(scores, labels, reduction="none").mean(1)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """Class numbers; for "multi" tuples of them (those above one half); for "regression" numbers, or lists."""
        scores, labels = outputs(model, batch.inputs)[0]["logits"].float(), batch.targets["labels"]
        if self.kind == "single":
            return scores.argmax(-1).tolist(), labels.tolist()
        if self.kind == "multi":
            return [_marked(row) for row in scores > 0], [_marked(row) for row in labels > 0.5]
        labels = labels.view(len(scores), -1)
        one = scores.shape[1] == 1
        return (scores[:, 0] if one else scores).tolist(), (labels[:, 0] if one else labels).tolist()


def _marked(row: Tensor) -> tuple[int, ...]:
    return tuple(row.nonzero()[:, 0].tolist())


def _check_classes(labels: Tensor, count: int) -> None:
    if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= count)).any()):
        raise ValueError(f"labels holds {sorted(set(labels.tolist()))}; the model's head has classes 0 to {count - 1}")
