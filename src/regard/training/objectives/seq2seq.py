"""A text from another one, from a sound or from an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.models.model import EncoderDecoder, Model
from regard.training.base import Batch, Row
from regard.training.objectives.rows import (
    at,
    by_size,
    ids,
    laid_out,
    places,
    read,
    sizes,
    tensor,
    tokens,
    with_added,
    written,
)
from regard.training.objectives.words import Words
from regard.training.softmax import Vocabulary


class Seq2Seq(Words):
    """The decoder predicts each token of the target from those before it (teacher forcing), and from what was read.

    A row holds what the encoder reads (`input_ids`, `input_features`, `input_values` or `pixel_values`) and `labels`,
    the target's ids with its end. `predict` writes up to `max_new_tokens`, by default twice the longest target.
    """

    name = "seq2seq"
    head = "seq2seq-lm"
    writes = True

    def __init__(
        self,
        *,
        smoothing: float = 0.0,
        z_loss: float = 0.0,
        vocabulary: Vocabulary | None = None,
        max_new_tokens: int | None = None,
    ):
        super().__init__(smoothing=smoothing, z_loss=z_loss, vocabulary=vocabulary)
        self.max_new_tokens = max_new_tokens

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        goals, sources = ids(rows, "labels"), sizes(rows)
        order = by_size(sources, [len(goal) for goal in goals])
        goals, sources = [goals[i] for i in order], [sources[i] for i in order]
        counts = [len(goal) for goal in goals]
        padded = {"input_ids", "input_values"}.isdisjoint(rows[0]) or 0 in sources
        # Packed targets of one length need sources of one length.
        padded |= any(
            len({s for _, s in run}) > 1 for _, run in groupby(zip(counts, sources, strict=True), lambda p: p[0])
        )
        packed = not padded and len(set(counts)) > 1
        inputs = read([rows[i] for i in order], packed=packed)
        targets = places(goals, max(counts) if not packed else None)
        if packed:
            laid = laid_out("goal", goals, packed=True)
            targets |= {"goal": laid["goal"], "goal_lengths": laid["lengths"]}
        else:
            width = max(counts)
            targets["goal"] = torch.stack([tensor([np.pad(goal, (0, width - len(goal)))]) for goal in goals])
            targets["goal_mask"] = torch.arange(width) < torch.tensor(counts)[:, None]
        return Batch(inputs, targets, count=len(targets["labels"]), tokens=tokens(inputs) + sum(counts))

    def states(self, model: Model, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The decoder's hidden states where it predicts (M, C), and losses that its layers add."""
        assert isinstance(model, EncoderDecoder)
        t = batch.targets
        lengths = t.get("goal_lengths")
        given = model.shifted(t["goal"], t.get("goal_mask"), lengths)
        # Padding stands on the right, where no word looks: the decoder needs no mask.
        hidden, ctx = model.hidden(given, model.encode(**batch.inputs), lengths=lengths)
        return at(hidden, t["places"]), ctx.losses

    def forward(self, model: Model, batch: Batch) -> Tensor:
        hidden, losses = self.states(model, batch)
        return with_added(self.word_loss(model, hidden, batch.targets["labels"]), losses, batch.count)

    @torch.no_grad()
    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """Texts where the model came with a tokenizer, else tuples of ids."""
        t = batch.targets
        goals = list(t["goal"].split(t["goal_lengths"])) if "goal_lengths" in t else None
        if goals is None:
            goals = [row[real] for row, real in zip(t["goal"], t["goal_mask"], strict=True)]
        most = self.max_new_tokens or 2 * max(map(len, goals))
        if model.max_length is not None:
            most = min(most, model.max_length - 1)
        out = model.generate(**batch.inputs, max_new_tokens=most, return_dict_in_generate=True)
        new = int(out.lengths.max())  # what was written stands at the right, each row with its own number of words
        said = [row[len(row) - new :][:n].tolist() for row, n in zip(out.sequences, out.lengths.tolist(), strict=True)]
        ends = {*model.config.tokens.eos}
        plain = [
            [[i for i in row if i not in ends] for row in rows] for rows in (said, [row.tolist() for row in goals])
        ]
        return [written(model, row) for row in plain[0]], [written(model, row) for row in plain[1]]
