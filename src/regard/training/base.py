"""What the loop, the objectives and the data agree on: rows become a `Batch`, an `Objective` turns it into a loss.

A row is one prepared example: a mapping with numpy arrays, numbers or strings, such as {"input_ids": ids, "labels": 3}.
Losses are *sums*, and a batch says over how many items the mean is to be taken. So a step of several micro-batches or
several devices has exactly the loss and the gradient of the one large batch that it stands for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from regard.models.base import HeadKind
from regard.models.model import Model

Row = Mapping[str, Any]


class Dataset(Protocol):
    """Rows by number, as lists, `datasets.Dataset` and memory maps give them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


@dataclass
class Batch:
    """`inputs` are the model's arguments, `targets` what its output is compared with.

    `count` is the number of items that the loss is a mean over (tokens with a target, or rows); `tokens` the number of
    real positions read, for tokens per second.
    """

    inputs: dict[str, Any]
    targets: dict[str, Any]
    count: int
    tokens: int = 0

    def to(self, device: torch.device | str) -> Batch:
        """The same with every tensor on a device."""
        return replace(self, inputs=_moved(self.inputs, device), targets=_moved(self.targets, device))


def _moved(values: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    return {key: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for key, v in values.items()}


class Objective(nn.Module):
    """How a model learns: rows -> batch, batch -> loss, batch -> what a metric compares.

    A module, since some objectives have parameters of their own (a temperature, a teacher, clusters of a vocabulary);
    these are trained and saved with the model's. `head` is the kind of head that the model must have.
    """

    name: ClassVar[str]
    head: ClassVar[HeadKind]
    predicts_tokens: ClassVar[bool] = False
    """Whether the exponential of the loss is a perplexity."""
    writes: ClassVar[bool] = False
    """Whether `predict` writes texts, in as many passes of the model as they have words."""

    @abstractmethod
    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        """Rows -> batch; all that is random (masks, noise) is drawn from `rng`. Raises ValueError naming a bad row."""

    @abstractmethod
    def forward(self, model: Model, batch: Batch) -> Tensor:
        """The loss summed over `batch.count` items, a scalar with a gradient."""

    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        """What the model says and what is right, an entry per item, for the metrics; nothing by default."""
        return [], []

    def joined(self, predictions: list[Any], references: list[Any]) -> tuple[list[Any], list[Any]]:
        """What the metrics compare, of all that `predict` gave; an item may have been read in several rows."""
        return predictions, references

    def after_step(self, model: Model, step: int) -> None:
        """Called after every optimiser step; an objective with a teacher moves it here."""
