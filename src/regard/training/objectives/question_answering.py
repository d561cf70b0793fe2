"""Where in a text an answer stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.models.model import Model
from regard.training.base import Batch, Objective, Row
from regard.training.losses import cross_entropy
from regard.training.objectives.rows import array, by_row, by_size, ids, outputs, read, tokens, with_added, written


class QuestionAnswering(Objective):
    """The first and last token of the answer (1810.04805, 4.2), `start_positions` and `end_positions` of a row.

    What has no answer points at the first token. A row's loss is the mean of both cross-entropies over its tokens.
    `predict` looks at answers of up to `longest` tokens.
    """

    name = "question-answering"
    head = "question-answering"

    def __init__(self, *, longest: int = 30):
        super().__init__()
        if longest < 1:
            raise ValueError(f"longest is {longest}; allowed: at least 1")
        self.longest = longest

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        words = ids(rows)
        ends = []
        for i, row in enumerate(words):
            start, end = (int(array(rows, i, key, axes=0, whole=True)) for key in ("start_positions", "end_positions"))
            if not 0 <= start <= end < len(row):
                raise ValueError(
                    f"row {i} of the batch has an answer from {start} to {end}; allowed: within 0 to {len(row) - 1}"
                )
            ends.append((start, end))
        order = by_size([len(row) for row in words])
        inputs = read([rows[i] for i in order])
        found = torch.tensor([ends[i] for i in order])
        return Batch(inputs, {"start": found[:, 0], "end": found[:, 1]}, count=len(rows), tokens=tokens(inputs))

    def scores(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Of each token to be the first and the last one (B, T), and losses that layers add."""
        out, losses = outputs(model, batch.inputs)
        lengths = batch.inputs.get("lengths")
        start, end = (by_row(out[name], lengths, -torch.inf) for name in ("start_logits", "end_logits"))
        return start, end, losses

    def forward(self, model: Model, batch: Batch) -> Tensor:
        start, end, losses = self.scores(model, batch)
        loss = cross_entropy(start, batch.targets["start"]) + cross_entropy(end, batch.targets["end"])
        return with_added(loss / 2, losses, batch.count)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """Texts of the likeliest answers where the model came with a tokenizer, else their ids."""
        start, end, _ = self.scores(model, batch)
        both = start[:, :, None] + end[:, None, :]  # (B, T, T)
        span = torch.ones_like(both[0], dtype=torch.bool).triu().tril(self.longest - 1)
        best = both.masked_fill(~span, -torch.inf).flatten(1).argmax(1)
        first, last = best // start.shape[1], best % start.shape[1]
        rows = by_row(batch.inputs["input_ids"], batch.inputs.get("lengths"))

        def texts(starts: Tensor, ends: Tensor) -> list[Any]:
            pairs = zip(rows, starts.tolist(), ends.tolist(), strict=True)
            return [written(model, row[a : b + 1].tolist()) for row, a, b in pairs]

        return texts(first, last), texts(batch.targets["start"], batch.targets["end"])
