"""What belongs together, among what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from regard.models.model import Model, SingleTower
from regard.nn.head import Ends
from regard.training.base import Batch, Objective, Row
from regard.training.losses import info_nce, pair_loss, sigmoid_pair_loss
from regard.training.objectives.rows import by_size, ids, laid_out, outputs, read, tokens, with_added


class ImageText(Objective):
    """Each image's text among all texts of the batch, and the other way round (CLIP, 2103.00020).

    A row holds `pixel_values` and `input_ids`. `loss` "sigmoid" judges every pair by itself (2303.15343). Rows are
    compared within a batch, so that two batches are not the same as one of both.
    """

    name = "image-text"
    head = "features"

    def __init__(self, *, loss: Literal["softmax", "sigmoid"] = "softmax"):
        super().__init__()
        if loss not in ("softmax", "sigmoid"):
            raise ValueError(f"loss is {loss!r}; allowed: softmax, sigmoid")
        self.loss = loss

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        order = by_size([len(row) for row in ids(rows)])
        inputs = read([rows[i] for i in order])
        if "pixel_values" not in inputs:
            raise ValueError(f"row 0 of the batch has no 'pixel_values'; it has {', '.join(rows[0])}")
        return Batch(inputs, {}, count=len(rows), tokens=tokens(inputs))

    def forward(self, model: Model, batch: Batch) -> Tensor:
        out, losses = outputs(model, batch.inputs)
        scores = out["logits_per_text"]
        loss = sigmoid_pair_loss(scores) if self.loss == "sigmoid" else pair_loss(scores, symmetric=True)
        return with_added(loss, losses, batch.count)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """Which image of the batch is most like each text, and which one it should be."""
        scores = model(**batch.inputs)["logits_per_text"]
        return scores.argmax(-1).tolist(), list(range(len(scores)))


class SentencePairs(Objective):
    """Each sentence's partner among all partners of the batch (1705.00652; Sentence-BERT, 1908.10084).

    A row holds `input_ids`, `positive_ids` and perhaps `negative_ids`, which looks like a partner and is none. A
    sentence is the mean of its tokens' vectors; likeness is cosine * `scale`. `symmetric`: partners look as well. Rows
    are compared within a batch, so that two batches are not the same as one of both.
    """

    name = "sentence-pairs"
    head = "features"

    def __init__(
        self, *, scale: float = 20.0, symmetric: bool = False, pool: Literal["mean", "first", "last"] = "mean"
    ):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale is {scale}; allowed: above 0")
        self.scale, self.symmetric, self.pool = scale, symmetric, pool

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        texts = ids(rows) + ids(rows, "positive_ids")
        if "negative_ids" in rows[0]:
            texts += ids(rows, "negative_ids")
        order = by_size([len(text) for text in texts])
        inputs = laid_out("input_ids", [texts[i] for i in order])
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return Batch(inputs, {"order": back}, count=len(rows), tokens=tokens(inputs))

    def vectors(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Sentences (B, C), partners and false partners (K, C), and losses that layers add."""
        assert isinstance(model, SingleTower)
        hidden, ctx = model.hidden(**batch.inputs)
        found = Ends(ctx).pool(hidden, self.pool)[batch.targets["order"]]
        return found[: batch.count], found[batch.count :], ctx.losses

    def forward(self, model: Model, batch: Batch) -> Tensor:
        queries, keys, losses = self.vectors(model, batch)
        loss = info_nce(queries, keys, scale=self.scale, symmetric=self.symmetric)
        return with_added(loss, losses, batch.count)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """Which partner of the batch is most like each sentence, and which one it should be."""
        queries, keys, _ = self.vectors(model, batch)
        scores = torch.nn.functional.normalize(queries, dim=-1) @ torch.nn.functional.normalize(keys, dim=-1).mT
        return scores.argmax(-1).tolist(), list(range(batch.count))
