"""Small problems with known answers, for seeing in a minute that a model learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regard.training.base import Row
from regard.training.problem import Problem

PAD, BOS, EOS = 0, 1, 2
_FIRST = 3
_WORDS = (
    "hello world the cat sat on mat a dog ran to old tree big red sun sees small "
    "bird sing in blue sky we eat bread and drink milk you read this book near my house "
    "they walk by sea when night falls fish swim under wide green river stars shine over quiet hills"
).split()


class ToyRows:
    """`size` random sequences, each a function of its number alone: the same in every run and on every machine."""

    def __init__(self, vocab_size: int, length: int, size: int, seed: int):
        self.vocab_size, self.length, self.size, self.seed = vocab_size, length, size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        ids = rng.integers(_FIRST, self.vocab_size, rng.integers(1, self.length + 1))
        return {"input_ids": np.append(ids, EOS), "labels": np.append(ids[::-1], EOS)}


@dataclass(frozen=True)
class Toy(Problem):
    """A problem over a small vocabulary of words, which can read and write them."""

    words: tuple[str, ...] = ()

    def encode(self, text: str) -> Tensor:
        """Words -> ids (1, T), the end of the sequence included. Raises ValueError for a word that is not known."""
        ids = []
        for word in text.split():
            if word not in self.words:
                raise ValueError(f"the word {word!r} is not in this vocabulary; allowed: {' '.join(self.words)}")
            ids.append(_FIRST + self.words.index(word))
        return torch.tensor([[*ids, EOS]])

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Ids -> words; what is no word is left out."""
        flat = torch.as_tensor(ids).flatten().tolist()
        return " ".join(self.words[i - _FIRST] for i in flat if i >= _FIRST)


def reverse(*, vocab_size: int = 64, length: int = 8, size: int = 20_000, seed: int = 0) -> Toy:
    """Sequences of up to `length` words, to be written backwards: "hello world" -> "world hello".

    Ids 0, 1 and 2 are padding, start and end. Raises ValueError for a vocabulary without room for words.
    """
    from regard.training.metrics import exact_match
    from regard.training.objectives import Seq2Seq

    if vocab_size < _FIRST + 2:
        raise ValueError(f"vocab_size is {vocab_size}; allowed: {_FIRST + 2} or more")
    if length < 1:
        raise ValueError(f"length is {length}; allowed: 1 or more")
    words = [*_WORDS, *(f"word{i}" for i in range(len(_WORDS), vocab_size))][: vocab_size - _FIRST]
    return Toy(
        objective=Seq2Seq(),
        train=ToyRows(vocab_size, length, size, seed),
        valid=ToyRows(vocab_size, length, 500, seed + 1),
        metrics={"exact": exact_match},
        fingerprint=f"reverse-{vocab_size}-{length}-{size}-{seed}",
        options={"learning_rate": 2e-3, "warmup": 0.1, "batch_size": 64, "weight_decay": 0.0},
        words=tuple(words),
    )
