"""Rows of images and sounds -> what models take, read when a row is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from regard.training.data.augment import AugmentImage, AugmentSound, augmentation
from regard.training.data.labels import Labels
from regard.training.data.prepare import _texts, target_ids
from regard.training.data.rows import column_of


class Lazy(Sequence[dict[str, Any]]):
    """Rows made when they are asked for: files are read again in every epoch, or once if `keep`.

    `read` gives what is kept: a row, or with `finish` what that makes a row of. `augment` is for rows to learn from,
    and changes what was read, each time anew.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[int], Any],
        labels: Labels | None = None,
        *,
        keep: bool = False,
        finish: Callable[[int, Any], dict[str, Any]] = lambda index, row: row,
        augment: Callable[[Any, np.random.Generator], Any] | None = None,
    ):
        self._count, self._read, self._finish = count, read, finish
        self.labels, self.augment = labels, augment
        self._kept: dict[int, Any] | None = {} if keep else None
        self.notes: list[str] = []

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._finish(index, self._held(index))

    def changed(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """The row as it is learnt from this time."""
        held = self._held(index)
        return self._finish(index, held if self.augment is None else self.augment(held, rng))

    def _held(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(f"row {index} of {self._count}")
        if self._kept is None:
            return self._read(index)
        if index not in self._kept:
            self._kept[index] = self._read(index)
        return self._kept[index]


def images(
    rows: Any,
    processor: Any,
    *,
    image: str = "image",
    label: str | None = None,
    labels: Labels | None = None,
    text: str | None = None,
    written: str | None = None,
    decoder_start: int | None = None,
    max_length: int | None = None,
    keep: bool = False,
    augment: Any = None,
) -> Lazy:
    """Images (paths, PIL images, arrays) as pixel_values, with a class as `labels`, or a `text` as input_ids.

    `written` is a text that a decoder is to write, as `labels`. `processor` is the model's: of images, or for a text
    one that joins it with a tokenizer. `augment` are the fields of `AugmentImage`: rows to learn from that change.
    """
    eyes = getattr(processor, "image_processor", None) or processor
    _check_column(rows, image)
    extra, labels = _extras(rows, processor, label, labels, text, max_length)
    if written is not None:
        extra["labels"] = _written(_texts(rows, written), processor, decoder_start, max_length)

    def make(i: int) -> dict[str, Any]:
        pixels = _of_row(i, lambda: eyes(rows[i][image], return_tensors="np")["pixel_values"][0])
        return {"pixel_values": pixels, **{name: values[i] for name, values in extra.items()}}

    return Lazy(len(rows), make, labels, keep=keep, augment=augmentation(AugmentImage, augment))


def sounds(
    rows: Any,
    processor: Any,
    *,
    audio: str = "audio",
    label: str | None = None,
    labels: Labels | None = None,
    text: str | None = None,
    decoder_start: int | None = None,
    max_length: int | None = None,
    keep: bool = False,
    augment: Any = None,
) -> Lazy:
    """Sounds (paths, or {"array", "sampling_rate"}) as input_values or input_features.

    With `label`, `labels` is a class; with `text`, the ids that are to be written: letters for a model with a CTC head,
    else tokens that end with eos_token. A `decoder_start` that the tokenizer puts first is left out, as the decoder
    is given it anyway. `augment` are the fields of `AugmentSound`.
    """
    ears = getattr(processor, "feature_extractor", processor)
    _check_column(rows, audio)
    goals: list[Any] | None = None
    if text is not None:
        goals = _written(_texts(rows, text), processor, decoder_start, max_length)
    elif label is not None:
        extra, labels = _extras(rows, processor, label, labels, None, None)
        goals = extra["labels"]

    def make(i: int, sound: Any) -> dict[str, Any]:
        heard = _of_row(i, lambda: ears(sound, return_tensors="np"))
        name = next(name for name in ("input_values", "input_features") if name in heard)
        row = {name: heard[name][0]}
        return row if goals is None else {**row, "labels": goals[i]}

    changes = augmentation(AugmentSound, augment)
    if changes is None:
        return Lazy(len(rows), lambda i: make(i, _clip(rows[i][audio])), labels, keep=keep)

    def read(i: int) -> np.ndarray:
        return _of_row(i, lambda: ears.samples(_clip(rows[i][audio])))

    return Lazy(len(rows), read, labels, keep=keep, finish=make, augment=changes)


def _check_column(rows: Any, name: str) -> None:
    """Look at the first row only: those of a `datasets.Dataset` are decoded when they are read."""
    if len(rows) and name not in rows[0]:
        raise ValueError(f"row 0 has no {name!r}; it has {', '.join(map(repr, rows[0]))}")


def _clip(value: Any) -> Any:
    """A sound as processors take it: of {"path", "bytes", "array"}, what is there."""
    if isinstance(value, dict) and "array" not in value and "raw" not in value:
        return value.get("bytes") or value.get("path")
    return value


def _of_row(index: int, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (ValueError, OSError) as error:
        raise ValueError(f"row {index}: {error}") from error


def _extras(
    rows: Any, processor: Any, label: str | None, labels: Labels | None, text: str | None, max_length: int | None
) -> tuple[dict[str, list[Any]], Labels | None]:
    extra: dict[str, list[Any]] = {}
    if label is not None:
        labels = Labels.of_column(rows, label) if labels is None else labels
        extra["labels"] = [labels.id(value, i, label) for i, value in enumerate(column_of(rows, label))]
    if text is not None:
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(f"text is {text!r}, but a {type(processor).__name__} has no tokenizer")
        ids = tokenizer(_texts(rows, text), truncation=True, max_length=max_length)["input_ids"]
        extra["input_ids"] = [np.array(row, dtype=np.int64) for row in ids]
    return extra, labels


def _written(texts: list[str], processor: Any, start: int | None, max_length: int | None) -> list[np.ndarray]:
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"to write text, a processor needs a tokenizer; a {type(processor).__name__} has none")
    if not hasattr(tokenizer, "backend"):  # letters
        return [_letters(tokenizer, text, i) for i, text in enumerate(texts)]
    found = target_ids(tokenizer, texts, max_length)
    return [ids[1:] if start is not None and len(ids) and ids[0] == start else ids for ids in found]


def _letters(tokenizer: Any, text: str, row: int) -> np.ndarray:
    ids = np.array(tokenizer(text)["input_ids"], dtype=np.int64)
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        odd = sorted({letter for letter in text if tokenizer(letter)["input_ids"] == [unknown]})
        raise ValueError(
            f"row {row}: the model has no letter {', '.join(map(repr, odd[:5]))} for {text[:60]!r}; clean the texts, "
            f"for example into upper case without punctuation"
        )
    return ids
