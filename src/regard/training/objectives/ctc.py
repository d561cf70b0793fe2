"""Letters from sound, without knowing when each is spoken."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.config import CTCHeadConfig
from regard.models.model import Model, SingleTower
from regard.nn.head import Ends
from regard.training import losses
from regard.training.base import Batch, Objective, Row
from regard.training.objectives.rows import by_row, by_size, ids, read, sizes, tensor, with_added, written


class CTC(Objective):
    """Connectionist temporal classification (Graves et al. 2006) from `input_values` to `labels`, ids of letters.

    The blank is the one of the model's head, or `blank`. Sounds lie end to end, so that none is padded. A row's loss is
    that of its whole target; one that is too short for its target counts 0.
    """

    name = "ctc"
    head = "ctc"

    def __init__(self, *, blank: int | None = None):
        super().__init__()
        self.blank = blank

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        labels = ids(rows, "labels")
        order = by_size(sizes(rows))
        targets = {"labels": tensor([labels[i] for i in order]), "counts": [len(labels[i]) for i in order]}
        return Batch(read([rows[i] for i in order]), targets, count=len(rows))

    def scores(self, model: Model, batch: Batch) -> tuple[Tensor, list[int], list[Tensor]]:
        """(B, T, units), how many moments are real, and losses that layers add."""
        assert isinstance(model, SingleTower)
        hidden, ctx = model.hidden(**batch.inputs)
        logits = model.head(hidden, Ends(ctx))["logits"]
        if ctx.lengths is not None:
            return by_row(logits, ctx.lengths), list(ctx.lengths), ctx.losses
        return logits, [logits.shape[1]] * len(logits), ctx.losses

    def silence(self, model: Model) -> int:
        """The id that stands for no letter."""
        if self.blank is not None:
            return self.blank
        config = model.head.config
        if not isinstance(config, CTCHeadConfig):
            raise ValueError("the model's head names no blank; pass blank=")
        return config.blank

    def forward(self, model: Model, batch: Batch) -> Tensor:
        scores, lengths, added = self.scores(model, batch)
        t = batch.targets
        loss = losses.ctc(scores, lengths, t["labels"], t["counts"], blank=self.silence(model))
        return with_added(loss, added, batch.count)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """The best unit of each moment, repetitions and blanks removed; texts where the model came with a tokenizer."""
        scores, lengths, _ = self.scores(model, batch)
        blank = self.silence(model)
        best = [row[:n] for row, n in zip(scores.argmax(-1).tolist(), lengths, strict=True)]
        said = [[unit for unit, _ in groupby(row) if unit != blank] for row in best]
        right = [part.tolist() for part in batch.targets["labels"].split(batch.targets["counts"])]
        options = {"group_tokens": False}  # letters that stand twice are two
        return [written(model, row, **options) for row in said], [written(model, row, **options) for row in right]
