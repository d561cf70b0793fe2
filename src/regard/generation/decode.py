"""A model at work: history in, scores of the next token out. The only place that runs the model while writing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from regard.generation.config import GenerationConfig
from regard.models.model import EncoderDecoder, Memory, Model, SingleTower
from regard.nn import KVCache, LanguageHead


def limit(model: Model, context: int | None = None) -> int | None:
    """The longest text that a decoder has positions for, or `context` if that is less; None if there is no end."""
    assert model.decoder is not None
    positions = cast("int | None", model.decoder.front.limit)
    return min((n for n in (positions, context) if n is not None), default=None)


class Decoding:
    """Rows that are being written: the model, its cache, and what the rows look at.

    `total` is how long the history will be at the end; the cache is reserved for it at once. A decoder whose positions
    end earlier, or after `context`, slides: it forgets the oldest tokens and reads the rest again. `beside` is what a
    decoder alone reads with its prompts, by name, such as images that stand among the words; a list has a row for each
    token of a prompt.
    """

    guesses = False  # whether scores of several steps are made at once
    steady = False  # whether no function of the caller's runs between two steps

    def __init__(
        self,
        model: Model,
        memory: Memory | None,
        total: int,
        beside: Mapping[str, Any] | None = None,
        context: int | None = None,
    ):
        self.model, self.total, self.beside = model, total, dict(beside or {})
        self.memory = None if memory is None else memory.padded()
        self.inputs = self.memory  # of all inputs, also those whose turn has not come
        self.which: Tensor | None = None  # the input of each row
        self.limit = limit(model, context)
        self.cache: KVCache | None = None

    def begin(self, inputs: Tensor) -> None:
        """Only these inputs are worked on, before anything was read."""
        self.which = inputs.clone()
        if self.inputs is not None:
            every = inputs.tolist() == list(range(len(self.inputs.hidden)))
            self.memory = self.inputs if every else self.inputs.select(inputs)

    def next(self, ids: Tensor) -> Tensor:
        """Scores (R, V) float32 of what follows a history (R, T), padded on the left with -1."""
        return self.model.logits(self.hidden(ids)).float()

    def best(self, ids: Tensor, count: int, rule: Tensor | None, *, weighed: bool = True) -> tuple[Tensor, Tensor]:
        """The likeliest tokens that follow, as `LanguageHead.best` gives them."""
        assert isinstance(self.model.head, LanguageHead)
        return self.model.head.best(self.hidden(ids), count, rule, weighed=weighed)

    def write(self, ids: Tensor, end: int, config: GenerationConfig, **beside: Tensor | None) -> list[int] | None:
        """Let kernels that stand in for the model read column `end - 1` of histories (R, ...), choose as `config` says,
        and write column `end`.

        `beside`: `rule` (V,) is added to scores; `draws` choose, and `logs` are written, laid out as `ids`.
        Returns the tokens, or None where that cannot be: then nothing was changed.
        """
        native, cache = self.model.__dict__.get("write"), self.cache
        if native is None or cache is None or (self.limit is not None and max(cache.lengths) >= self.limit):
            return None
        return cast("list[int] | None", native(cache, self.memory, ids, end, config, **beside))

    def hidden(self, ids: Tensor) -> Tensor:
        """Last states (R, C) of histories. The first call reads all of them, later ones the last column."""
        cache = self.cache
        if cache is None or (self.limit is not None and max(cache.lengths) >= self.limit):
            return self._read([self._window(row, ids.shape[1], i) for i, row in enumerate(ids)])
        return self.read_on(ids[:, -1:], cache)[:, -1]

    def _window(self, row: Tensor, width: int, i: int) -> Tensor:
        """The tokens that a row still knows: all, or so many of the last that the rest fits (at least half)."""
        if self.cache is not None:
            row = row[-(self.cache.lengths[i] + 1) :]
        row = row[row >= 0]
        if self.limit is None or row.shape[0] <= self.limit:
            return row
        return row[-max(self.limit // 2, self.limit - (self.total - width) + 1, 1) :]

    def _read(self, rows: list[Tensor]) -> Tensor:
        """Prefill: equal rows as a rectangle, unequal ones end to end, so that no work is spent on padding."""
        lengths = [row.shape[0] for row in rows]
        capacity = self.total if self.limit is None else min(self.total, self.limit)
        cache = self.cache = KVCache(capacity)
        cache.steady = self.steady
        equal = len(set(lengths)) == 1
        laid = torch.stack if equal else torch.cat
        beside = {name: laid(value) if isinstance(value, list) else value for name, value in self.beside.items()}
        if equal:
            last = self.read_on(torch.stack(rows), cache, **beside)[:, -1]
        elif isinstance(self.model, SingleTower):
            hidden, _ = self.model.hidden(torch.cat(rows), lengths=lengths, cache=cache, **beside)
            last = hidden[torch.tensor(lengths, device=hidden.device).cumsum(0) - 1]
        else:
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            ends = torch.tensor(lengths, device=ids.device)
            mask = (torch.arange(ids.shape[1], device=ids.device) < ends[:, None]).long()
            hidden = self.read_on(ids, cache, mask)
            last = hidden[torch.arange(len(rows), device=ids.device), ends - 1]
        self.beside = {}  # the cache holds it now
        return last

    def read_on(self, ids: Tensor, cache: KVCache, mask: Tensor | None = None, **beside: Any) -> Tensor:
        """States (R, T, C) of tokens (R, T) that continue the cache's rows."""
        if isinstance(self.model, EncoderDecoder):
            assert self.memory is not None
            return self.model.hidden(ids, self.memory, mask, cache=cache)[0]
        assert isinstance(self.model, SingleTower)
        return self.model.hidden(ids, mask, cache=cache, **beside)[0]

    def replace(self, rows: Tensor, inputs: Tensor, ids: Tensor) -> None:
        """Let rows (n,) go on from other inputs (n,) and their histories (n, T), whose last columns come next."""
        fresh = Decoding(self.model, None if self.inputs is None else self.inputs.select(inputs), self.total)
        fresh.hidden(ids)
        assert self.cache is not None and fresh.cache is not None
        fresh.cache.crop([n - 1 for n in fresh.cache.lengths])
        self.cache.replace(rows, fresh.cache)
        if self.inputs is not None and self.which is not None:
            self.which[rows] = inputs
            self.memory = self.inputs.select(self.which)

    def select(self, rows: Tensor, *, memory: bool = True) -> None:
        """Keep these rows in this order. `memory=False`: rows only change places within one input."""
        if self.cache is not None:
            self.cache.select(rows, memory=memory)
        if memory and self.memory is not None:
            self.memory = self.memory.select(rows)
            self.which = None if self.which is None else self.which[rows]
