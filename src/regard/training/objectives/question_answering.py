"""Where in a text an answer stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regard.models.model import Model
from regard.training.base import Batch, Objective, Row
from regard.training.losses import cross_entropy
from regard.training.objectives.rows import array, by_row, by_size, ids, outputs, read, tokens, with_added, written

WINDOW = ("row", "offsets", "context", "answers")
"""What rows hold that are windows of a text."""


class Span(NamedTuple):
    """The best answer in one window of a text: of which question, its score, that of no answer, and its text."""

    question: int
    score: float
    none: float
    text: str


class QuestionAnswering(Objective):
    """The first and last token of the answer (1810.04805, 4.2), `start_positions` and `end_positions` of a row.

    What has no answer points at the first token. A row's loss is the mean of both cross-entropies over its tokens.
    `predict` looks at answers of up to `longest` tokens. Where rows are windows of texts, with `row`, `offsets`,
    `context` and `answers`, each question has one answer, the best of all its windows; or none, "", where that is
    likelier in every window (as for SQuAD 2.0, 1806.03822).
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
        targets: dict[str, Any] = {"start": found[:, 0], "end": found[:, 1]}
        if all(name in rows[0] for name in WINDOW):
            targets["windows"] = [[rows[i][name] for name in WINDOW] for i in order]
        return Batch(inputs, targets, count=len(rows), tokens=tokens(inputs))

    def scores(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
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
        """Texts of the likeliest answers where the model came with a tokenizer, else their ids.

        Of windows, a `Span` each, and (question, answers); `joined` makes texts of them.
        """
        start, end, _ = self.scores(model, batch)
        if "windows" in batch.targets:
            windows = batch.targets["windows"]
            said = [
                self.best(s, e, *w[:3]) for s, e, w in zip(start.float().cpu(), end.float().cpu(), windows, strict=True)
            ]
            return list(said), [(number, answers) for number, _, _, answers in windows]
        both = start[:, :, None] + end[:, None, :]  # (B, T, T)
        span = torch.ones_like(both[0], dtype=torch.bool).triu().tril(self.longest - 1)
        best = both.masked_fill(~span, -torch.inf).flatten(1).argmax(1)
        first, last = best // start.shape[1], best % start.shape[1]
        rows = by_row(batch.inputs["input_ids"], batch.inputs.get("lengths"))

        def texts(starts: Tensor, ends: Tensor) -> list[Any]:
            pairs = zip(rows, starts.tolist(), ends.tolist(), strict=True)
            return [written(model, row[a : b + 1].tolist()) for row, a, b in pairs]

        return texts(first, last), texts(batch.targets["start"], batch.targets["end"])

    def best(self, start: Tensor, end: Tensor, question: int, offsets: np.ndarray, context: str) -> Span:
        """The best answer of a window, by the scores of its tokens (T,)."""
        start, end = start[: len(offsets)], end[: len(offsets)]
        inside = torch.from_numpy(offsets[:, 1] > offsets[:, 0])
        both = start[:, None] + end[None]
        allowed = (inside[:, None] & inside[None]).triu().tril(self.longest - 1)
        score, at = both.masked_fill(~allowed, -torch.inf).flatten().max(0)
        first, last = divmod(int(at), len(offsets))
        text = context[offsets[first, 0] : offsets[last, 1]] if score > -torch.inf else ""
        return Span(question, float(score), float(both[0, 0]), text)

    def joined(self, predictions: list[Any], references: list[Any]) -> tuple[list[Any], list[Any]]:
        """The best answer to each question, and all that are right."""
        if not predictions or not isinstance(predictions[0], Span):
            return predictions, references
        best: dict[int, Span] = {}
        for span in predictions:
            known = best.setdefault(span.question, span)
            better = span if span.score > known.score else known
            best[span.question] = better._replace(none=min(span.none, known.none))
        right = dict(references)
        said = ["" if span.none > span.score else span.text for span in best.values()]
        return said, [list(right[number]) or [""] for number in best]
