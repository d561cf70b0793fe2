"""Rows -> what a model reads: texts and sound end to end without padding, whatever has one shape stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.models.model import Model, Output
from regard.training.base import Row
from regard.training.losses import IGNORE

SENSES = ("input_values", "input_features", "pixel_values")
"""What a row without `input_ids` may hold instead."""


def array(rows: Sequence[Row], i: int, key: str, *, axes: int | None = None, whole: bool = False) -> np.ndarray:
    """`rows[i][key]` with so many axes, in whole numbers (int64) or as it is. Raises ValueError naming the row."""
    if key not in rows[i]:
        raise ValueError(f"row {i} of the batch has no {key!r}; it has {', '.join(rows[i])}")
    value = np.asarray(rows[i][key])
    if (axes is not None and value.ndim != axes) or 0 in value.shape or value.dtype.kind not in "iufb":
        wanted = "numbers" if axes is None else f"numbers on {axes} axes" if axes else "one number"
        raise ValueError(f"row {i} of the batch: {key} is {value.shape} of {value.dtype}; allowed: {wanted}, not none")
    if whole and value.dtype.kind not in "iu":
        raise ValueError(f"row {i} of the batch: {key} is of {value.dtype}; allowed: whole numbers")
    return value.astype(np.int64) if whole else value


def ids(rows: Sequence[Row], key: str = "input_ids") -> list[np.ndarray]:
    """Every row's ids (n,), at least one of them. Raises ValueError without any row, or for a bad one."""
    if not rows:
        raise ValueError("a batch of 0 rows; allowed: at least 1")
    return [array(rows, i, key, axes=1, whole=True) for i in range(len(rows))]


def sizes(rows: Sequence[Row]) -> list[int]:
    """How long each row is, in tokens or samples; 0 for what has one shape."""
    if rows and "input_ids" in rows[0]:
        return [len(x) for x in ids(rows)]
    if rows and "input_values" in rows[0] and np.ndim(rows[0]["input_values"]) == 1:
        return [len(array(rows, i, "input_values", axes=1)) for i in range(len(rows))]
    return [0] * len(rows)


def by_size(*lengths: Sequence[int]) -> list[int]:
    """Which rows come first, so that equal lengths lie together; rows of the same lengths keep their order."""
    return sorted(range(len(lengths[0])), key=lambda i: tuple(each[i] for each in lengths))


def tensor(parts: Sequence[np.ndarray]) -> Tensor:
    """Arrays end to end; whole numbers as int64, others as float32."""
    joined = np.concatenate(parts)
    return torch.from_numpy(joined.astype(np.int64 if joined.dtype.kind in "iub" else np.float32))


def laid_out(name: str, parts: Sequence[np.ndarray], *, packed: bool = False) -> dict[str, Any]:
    """{name: (B, T)} where all parts are of one length T, else {name: (N,), "lengths": [...]}; so also if `packed`."""
    lengths = [len(part) for part in parts]
    if packed or len(set(lengths)) > 1:
        return {name: tensor(parts), "lengths": lengths}
    return {name: tensor(parts).view(len(parts), -1)}


def stacked(rows: Sequence[Row], key: str) -> Tensor:
    """(B, ...) float32. Raises ValueError unless all have one shape."""
    parts = [array(rows, i, key) for i in range(len(rows))]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"{key} has rows of shape {' and '.join(map(str, sorted(shapes)))}; allowed: one shape")
    return torch.from_numpy(np.stack(parts).astype(np.float32))


def read(rows: Sequence[Row], *, packed: bool = False) -> dict[str, Any]:
    """The model's inputs for rows in this order: ids, types and images, or something for its other senses."""
    if not rows:
        raise ValueError("a batch of 0 rows; allowed: at least 1")
    if "input_ids" in rows[0]:
        words = ids(rows)
        inputs = laid_out("input_ids", words, packed=packed)
        if "token_type_ids" in rows[0]:
            types = ids(rows, "token_type_ids")
            same_lengths(words, types, "token_type_ids")
            inputs["token_type_ids"] = laid_out("token_type_ids", types, packed=packed)["token_type_ids"]
        if "pixel_values" in rows[0]:
            several = np.ndim(rows[0]["pixel_values"]) == 4
            pictures = [array(rows, i, "pixel_values", axes=4) for i in range(len(rows))] if several else []
            inputs["pixel_values"] = tensor(pictures) if several else stacked(rows, "pixel_values")
        return inputs
    for key in SENSES:
        if key in rows[0]:
            if key == "input_values" and np.ndim(rows[0][key]) == 1:
                return laid_out(key, [array(rows, i, key, axes=1) for i in range(len(rows))], packed=packed)
            return {key: stacked(rows, key)}
    raise ValueError(f"row 0 of the batch has {', '.join(rows[0])}; allowed: input_ids, {', '.join(SENSES)}")


def same_lengths(parts: Sequence[np.ndarray], others: Sequence[np.ndarray], name: str) -> None:
    """Raise a ValueError naming the first row whose `name` is not as long as what it belongs to."""
    for i, (part, other) in enumerate(zip(parts, others, strict=True)):
        if len(part) != len(other):
            raise ValueError(f"row {i} of the batch: {name} has {len(other)} items; allowed: {len(part)}, one for each")


def places(labels: Sequence[np.ndarray], width: int | None = None) -> dict[str, Tensor]:
    """Where there is something to predict, and what: positions among all tokens end to end, labels, both (M,).

    `width` is the length to which every row is padded, if it is.
    """
    starts = np.cumsum([0, *map(len, labels)])[:-1] if width is None else np.arange(len(labels)) * width
    real = [np.flatnonzero(row != IGNORE) for row in labels]
    where = tensor([start + found for start, found in zip(starts, real, strict=True)])
    return {"places": where, "labels": tensor([row[found] for row, found in zip(labels, real, strict=True)])}


def at(hidden: Tensor, where: Tensor) -> Tensor:
    """Vectors at places among all tokens end to end: (B, T, C) or packed (N, C) -> (M, C)."""
    return hidden.flatten(0, -2).index_select(0, where)


def tokens(inputs: dict[str, Any]) -> int:
    """Positions that a text model reads; 0 where that is for the front-end to say."""
    return int(inputs["input_ids"].numel()) if "input_ids" in inputs else 0


def outputs(model: Model, inputs: dict[str, Any]) -> tuple[Output, Sequence[Tensor]]:
    """What the model gives, and the losses that layers add of themselves (balance of experts)."""
    out = model(**inputs)
    return out, out.losses


def with_added(loss: Tensor, losses: Sequence[Tensor], count: int) -> Tensor:
    """A sum over `count` items, and what layers add to its mean; that is measured batch by batch, so the mean over
    several batches is weighted by their counts, and is not quite that of one large batch."""
    return loss + count * torch.stack(list(losses)).sum() if losses else loss


def by_row(x: Tensor, lengths: Sequence[int] | None, fill: float = 0.0) -> Tensor:
    """Packed (N, ...) -> (B, T, ...), filled up on the right; what has rows already stays."""
    if lengths is None:
        return x
    return nn.utils.rnn.pad_sequence(list(x.split(list(lengths))), batch_first=True, padding_value=fill)


def written(model: Model, found: Sequence[int], **options: Any) -> Any:
    """The text of ids where the model came with a tokenizer, else the ids themselves, as a tuple."""
    decode = getattr(model.processor, "decode", None)
    return tuple(found) if decode is None else decode(list(found), skip_special_tokens=True, **options)
