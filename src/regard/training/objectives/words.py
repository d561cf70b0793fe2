"""What all objectives that predict words share: the loss of chosen positions under a language head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.models.model import Model, SingleTower
from regard.training.base import Batch, Objective
from regard.training.losses import SCORES, chunked_cross_entropy
from regard.training.objectives.rows import at, with_added
from regard.training.softmax import Vocabulary


class Words(Objective):
    """Words at some places of what one tower read; a subclass says which.

    `smoothing` and `z_loss` are those of `losses.cross_entropy`, while training. `vocabulary` (adaptive, sampled or
    hierarchical softmax) stands in place of the model's language head, which then learns nothing.
    The batch's targets are `places` among all tokens end to end, and `labels`.
    """

    predicts_tokens = True

    def __init__(self, *, smoothing: float = 0.0, z_loss: float = 0.0, vocabulary: Vocabulary | None = None):
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}; allowed: 0 up to, but not, 1")
        if z_loss < 0:
            raise ValueError(f"z_loss is {z_loss}; allowed: 0 or more")
        if vocabulary is not None and (smoothing or z_loss):
            raise ValueError("smoothing and z_loss need the full softmax; allowed with vocabulary: 0")
        self.smoothing, self.z_loss, self.vocabulary = smoothing, z_loss, vocabulary

    def word_loss(self, model: Model, hidden: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of hidden states (M, C) that should give labels (M,)."""
        if self.vocabulary is not None:
            return self.vocabulary.loss(hidden, labels)
        if not self.training:  # what is measured is the likelihood itself
            return chunked_cross_entropy(hidden, model.head, labels)
        return chunked_cross_entropy(hidden, model.head, labels, smoothing=self.smoothing, z_loss=self.z_loss)

    def best_words(self, model: Model, hidden: Tensor) -> list[int]:
        """The likeliest word for each hidden state (M, C)."""
        score = model.logits if self.vocabulary is None else self.vocabulary.log_prob
        size = model.head.config.vocab_size if self.vocabulary is None else self.vocabulary.vocab_size
        return [int(i) for part in hidden.split(max(1, SCORES // size)) for i in score(part).argmax(-1)]

    def forward(self, model: Model, batch: Batch) -> Tensor:
        assert isinstance(model, SingleTower)
        hidden, ctx = model.hidden(**batch.inputs)
        loss = self.word_loss(model, at(hidden, batch.targets["places"]), batch.targets["labels"])
        return with_added(loss, ctx.losses, batch.count)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        assert isinstance(model, SingleTower)
        hidden, _ = model.hidden(**batch.inputs)
        return self.best_words(model, at(hidden, batch.targets["places"])), batch.targets["labels"].tolist()
