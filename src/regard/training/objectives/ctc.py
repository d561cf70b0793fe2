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
from regard.senses.audio import Waveform
from regard.training import losses
from regard.training.base import Batch, Objective, Row
from regard.training.objectives.rows import by_row, by_size, ids, read, sizes, tensor, with_added, written


class CTC(Objective):
    """Connectionist temporal classification (Graves et al. 2006) from `input_values` to `labels`, ids of letters.

    While training, `mask_part` of the moments are hidden in runs of `mask_span` (SpecAugment, 1904.08779), for models
    that have a vector for that.
    The blank is the one of the model's head, or `blank`. Sounds lie end to end, so that none is padded. A row's loss is
    that of its whole target; one that is too short for its target counts 0.
    """

    name = "ctc"
    head = "ctc"

    def __init__(self, *, blank: int | None = None, mask_part: float = 0.0, mask_span: int = 10):
        super().__init__()
        if not 0 <= mask_part < 1 or mask_span < 1:
            raise ValueError(
                f"mask_part is {mask_part}, mask_span {mask_span}; allowed: 0 up to, but not, 1, and at least 1"
            )
        self.blank, self.mask_part, self.mask_span = blank, mask_part, mask_span

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        labels = ids(rows, "labels")
        order = by_size(sizes(rows))
        targets = {"labels": tensor([labels[i] for i in order]), "counts": [len(labels[i]) for i in order]}
        return Batch(read([rows[i] for i in order]), targets, count=len(rows))

    def scores(self, model: Model, batch: Batch) -> tuple[Tensor, list[int], list[Tensor]]:
        """(B, T, units), how many moments are real, and losses that layers add."""
        assert isinstance(model, SingleTower)
        inputs = batch.inputs
        if self.mask_part and model.training:
            inputs = {**inputs, "mask_time_indices": self.masks(model, inputs)}
        hidden, ctx = model.hidden(**inputs)
        logits = model.head(hidden, Ends(ctx))["logits"]
        if ctx.lengths is not None:
            return by_row(logits, ctx.lengths), list(ctx.lengths), ctx.losses
        return logits, [logits.shape[1]] * len(logits), ctx.losses

    def masks(self, model: SingleTower, inputs: dict[str, Any]) -> Tensor:
        """Which moments to hide (B, T)."""
        front, values = model.tower.front, inputs["input_values"]
        if not isinstance(front, Waveform):
            raise ValueError(f"mask_part is {self.mask_part}; allowed: 0, as this model does not read waveforms")
        moments = [front.frames(n) for n in inputs.get("lengths", [values.shape[-1]] * len(values))]
        hidden = torch.zeros(len(moments), max(moments), dtype=torch.bool)
        for row, count in zip(hidden, moments, strict=True):
            span = min(self.mask_span, count)
            runs = int(self.mask_part * count / span + float(torch.rand(())))  # so that short rows give their share
            for start in torch.randperm(count - span + 1)[:runs].tolist():
                row[start : start + span] = True
        return hidden.to(values.device)

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
