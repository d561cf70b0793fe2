"""Hidden words, from all words around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regard.training.base import Batch, Row
from regard.training.losses import IGNORE
from regard.training.objectives.rows import array, by_size, ids, places, read, same_lengths, tokens
from regard.training.objectives.words import Words
from regard.training.softmax import Vocabulary


class MaskedLM(Words):
    """BERT's task (1810.04805, 3.1), drawn anew each time a row is read (1907.11692, 4.1).

    Of each row, `part` of the tokens that are not `special` are chosen, at least one: 80 % of them become `mask`, 10 %
    any other word, 10 % stay. `whole_words` chooses all tokens of a word, by the row's `word_ids` (-1 for none).
    A row with `labels` (-100 where nothing is hidden) is taken as it is.
    """

    name = "masked-lm"
    head = "masked-lm"

    def __init__(
        self,
        *,
        mask: int,
        vocab_size: int,
        special: Sequence[int] = (),
        part: float = 0.15,
        whole_words: bool = False,
        smoothing: float = 0.0,
        z_loss: float = 0.0,
        vocabulary: Vocabulary | None = None,
    ):
        super().__init__(smoothing=smoothing, z_loss=z_loss, vocabulary=vocabulary)
        if not 0 < part <= 1:
            raise ValueError(f"part is {part}; allowed: above 0, up to 1")
        if not 0 <= mask < vocab_size:
            raise ValueError(f"mask is {mask}; allowed: 0 to {vocab_size - 1}")
        self.mask, self.part, self.whole_words = mask, part, whole_words
        self.special = np.unique(np.array([*special, mask], dtype=np.int64))
        self.ordinary = np.setdiff1d(np.arange(vocab_size), self.special)

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        words = ids(rows)
        if "labels" in rows[0]:
            labels = ids(rows, "labels")
            same_lengths(words, labels, "labels")
        else:
            drawn = [self.hidden(rows, i, words[i], rng) for i in range(len(rows))]
            words, labels = [w for w, _ in drawn], [found for _, found in drawn]
        order = by_size([len(row) for row in words])
        inputs = read([{**rows[i], "input_ids": words[i]} for i in order])
        targets = places([labels[i] for i in order])
        return Batch(inputs, targets, count=len(targets["labels"]), tokens=tokens(inputs))

    def hidden(
        self, rows: Sequence[Row], i: int, words: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A row's ids with some of them hidden, and its labels."""
        open_ = ~np.isin(words, self.special)
        units = np.arange(len(words))
        if self.whole_words:
            units = array(rows, i, "word_ids", axes=1, whole=True)
            same_lengths([words], [units], "word_ids")
            open_ &= units >= 0
        chosen = self.chosen(units, open_, rng)
        labels = np.where(chosen, words, IGNORE)
        draw = rng.random(len(words))
        others = self.ordinary[rng.integers(len(self.ordinary), size=len(words))] if len(self.ordinary) else words
        changed = np.where(draw < 0.8, self.mask, np.where(draw < 0.9, others, words))
        return np.where(chosen, changed, words), labels

    def chosen(self, units: np.ndarray, open_: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Which tokens to hide: whole units in random order until `part` of the open tokens are reached."""
        chosen = np.zeros(len(units), dtype=bool)
        exact = open_.sum() * self.part
        budget = int(exact) + int(rng.random() < exact - int(exact))  # so that short rows give their share as well
        budget = max(1, budget)
        if not self.whole_words:
            chosen[rng.permutation(np.flatnonzero(open_))[:budget]] = True
            return chosen
        for unit in rng.permutation(np.unique(units[open_])):
            here = open_ & (units == unit)
            if not chosen.any() or chosen.sum() + here.sum() <= budget:
                chosen |= here
            if chosen.sum() >= budget:
                break
        return chosen
