"""A whole text, from a spoilt one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regard.training.base import Batch, Row
from regard.training.objectives.rows import ids
from regard.training.objectives.seq2seq import Seq2Seq


class Denoising(Seq2Seq):
    """BART's task (1910.13461, 2.2): runs of tokens each become one `mask`, sentences change places.

    `part` of the tokens lie in hidden runs, whose lengths are Poisson(`mean_span`); an empty run is a `mask` put in.
    Sentences end with a token of `sentence_ends`; without any, they stay where they are. Tokens of `special` at both
    ends of a row are left alone. The target is the row as it was. Rows with `labels` are taken as they are.
    """

    name = "denoising"

    def __init__(
        self,
        *,
        mask: int,
        special: Sequence[int] = (),
        sentence_ends: Sequence[int] = (),
        part: float = 0.3,
        mean_span: float = 3.0,
        smoothing: float = 0.0,
        z_loss: float = 0.0,
    ):
        super().__init__(smoothing=smoothing, z_loss=z_loss)
        if not 0 <= part < 1 or mean_span <= 0:
            raise ValueError(f"part is {part}, mean_span {mean_span}; allowed: 0 up to, but not, 1, and above 0")
        self.mask, self.part, self.mean_span = mask, part, mean_span
        self.special = np.array(special, dtype=np.int64)
        self.sentence_ends = np.array(sentence_ends, dtype=np.int64)

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        if rows and "labels" not in rows[0]:
            rows = [{"input_ids": self.spoilt(words, rng), "labels": words} for words in ids(rows)]
        return super().collate(rows, rng)

    def spoilt(self, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A row with sentences in another order and runs of tokens hidden."""
        inner = np.flatnonzero(~np.isin(words, self.special))
        if not len(inner):
            return words
        first, last = inner[0], inner[-1] + 1
        body = self.infilled(self.shuffled(words[first:last], rng), rng)
        return np.concatenate([words[:first], body, words[last:]])

    def shuffled(self, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The sentences in random order; what follows the last end is a sentence as well."""
        ends = np.flatnonzero(np.isin(words, self.sentence_ends)) + 1
        parts = [part for part in np.split(words, ends) if len(part)]
        return np.concatenate([parts[i] for i in rng.permutation(len(parts))])

    def infilled(self, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Runs of tokens, at least one token apart, each replaced by one mask."""
        lengths = self.spans(len(words), rng)
        kept = len(words) - sum(lengths)
        gaps = np.sort(rng.choice(kept + 1, min(len(lengths), kept + 1), replace=False))
        lengths = lengths[: len(gaps)]
        out: list[np.ndarray] = []
        read = 0  # how many words are dealt with
        gone = 0  # how many of them are hidden
        for gap, length in zip(gaps, lengths, strict=True):
            out += [words[read : gap + gone], np.array([self.mask])]
            read = gap + gone + length
            gone += length
        return np.concatenate([*out, words[read:]])

    def spans(self, count: int, rng: np.random.Generator) -> list[int]:
        """Lengths of the hidden runs of so many tokens, in random order; the one that goes too far is cut."""
        exact = count * self.part
        budget = int(exact) + int(rng.random() < exact - int(exact))
        lengths: list[int] = []
        while sum(lengths) < budget:
            lengths.append(min(int(rng.poisson(self.mean_span)), budget - sum(lengths)))
        return [lengths[i] for i in rng.permutation(len(lengths))]
