"""The next word, from all words before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regard.training.base import Batch, Row
from regard.training.losses import IGNORE
from regard.training.objectives.rows import by_size, ids, places, read, same_lengths, tokens
from regard.training.objectives.words import Words


class CausalLM(Words):
    """Every token but the first of each row is predicted from those before it in the row (GPT).

    A row holds `input_ids`, and may hold `labels` of the same length, -100 where a token is not to be learnt (a
    prompt). Rows are documents that do not see each other. The last token is only a target, so a row may have one
    token more than the model takes. With images for the model beside the text, `pixel_values`.
    """

    name = "causal-lm"
    head = "causal-lm"

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        words = ids(rows)
        labels = ids(rows, "labels") if "labels" in rows[0] else words
        same_lengths(words, labels, "labels")
        order = by_size([len(row) for row in words])
        nothing = np.array([IGNORE])
        seen = [{k: v for k, v in rows[i].items() if k == "pixel_values"} for i in order]
        cut = [words[i][: max(1, len(words[i]) - 1)] for i in order]
        inputs = read([{**other, "input_ids": row} for other, row in zip(seen, cut, strict=True)])
        targets = places([labels[i][1:] if len(labels[i]) > 1 else nothing for i in order])
        return Batch(inputs, targets, count=len(targets["labels"]), tokens=tokens(inputs))
