"""A label for each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.models.model import Model
from regard.training.base import Batch, Objective, Row
from regard.training.losses import IGNORE, cross_entropy
from regard.training.objectives.rows import (
    at,
    by_size,
    ids,
    outputs,
    places,
    read,
    same_lengths,
    tokens,
    with_added,
)


class TokenClassification(Objective):
    """`labels` of a row's words, each predicted at the word's first token; other tokens count for nothing.

    With `word_ids` (the word of each token, -1 for none), `labels` has one for each word; without, one for each token,
    -100 for those that do not count. The mean is over labels.
    """

    name = "token-classification"
    head = "token-classification"

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        words, labels = ids(rows), ids(rows, "labels")
        if "word_ids" in rows[0]:
            numbers = ids(rows, "word_ids")
            same_lengths(words, numbers, "word_ids")
            labels = [
                first_tokens(found, number, i) for i, (found, number) in enumerate(zip(labels, numbers, strict=True))
            ]
        same_lengths(words, labels, "labels")
        order = by_size([len(row) for row in words])
        inputs = read([rows[i] for i in order])
        targets: dict[str, Any] = places([labels[i] for i in order])
        targets["counts"] = [int((labels[i] != IGNORE).sum()) for i in order]
        return Batch(inputs, targets, count=len(targets["labels"]), tokens=tokens(inputs))

    def forward(self, model: Model, batch: Batch) -> Tensor:
        out, losses = outputs(model, batch.inputs)
        loss = cross_entropy(at(out["logits"], batch.targets["places"]), batch.targets["labels"])
        return with_added(loss, losses, batch.count)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """A tuple of class numbers for each row, those of its labelled tokens."""
        t = batch.targets
        best = at(outputs(model, batch.inputs)[0]["logits"], t["places"]).argmax(-1)
        return [[tuple(row.tolist()) for row in x.split(t["counts"])] for x in (best, t["labels"])]  # type: ignore[return-value]


def first_tokens(labels: np.ndarray, words: np.ndarray, i: int = 0) -> np.ndarray:
    """Labels of words -> of tokens: at the first token of each word, -100 elsewhere. `i` is the row, for errors."""
    if words.max() >= len(labels):
        raise ValueError(
            f"row {i} of the batch: labels has {len(labels)} items; allowed: {words.max() + 1} words or more"
        )
    first = np.ones(len(words), dtype=bool)
    first[1:] = words[1:] != words[:-1]
    return np.where(first & (words >= 0), labels[np.maximum(words, 0)], IGNORE)
