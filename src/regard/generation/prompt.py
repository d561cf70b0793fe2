"""Prompts in any layout -> compact rows, and the tensor that the result begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """`shown` (B, W): as the caller gave it, ragged rows padded on the left. `ids` (B, W): left, padded with -1.

    `real` (B, W) says which of `shown` are tokens, where they are not as in `ids`.
    """

    shown: Tensor
    ids: Tensor
    real: Tensor | None = None

    @property
    def longest(self) -> int:
        """Real tokens of the longest row."""
        return int((self.ids >= 0).sum(1).max())

    def rows(self) -> list[Tensor]:
        """Each row's real tokens."""
        return [row[row >= 0] for row in self.ids]

    def beside(self, value: Tensor, name: str, lengths: Sequence[int] | None = None) -> list[Tensor]:
        """The rows of what the caller gave for every token, (B, W, ...), without those of padding; or of packed tokens
        (N, ...). Raises ValueError for another shape."""
        if lengths is not None:
            if value.shape[:1] != (sum(lengths),):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; allowed: {sum(lengths)} rows, one for each token"
                )
            return list(value.split(list(lengths)))
        if value.shape[:2] != self.shown.shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; it must begin as input_ids: {tuple(self.shown.shape)}"
            )
        real = (self.ids >= 0 if self.real is None else self.real).to(value.device)
        return [row[keep] for row, keep in zip(value, real, strict=True)]


def prompt(
    ids: Any,
    mask: Any,
    lengths: Sequence[int] | None,
    *,
    pad: int | None,
    ends: tuple[int, ...],
    device: torch.device,
    name: str = "input_ids",
) -> Prompt:
    """Ids (B, T) padded on either side with a mask, lists of ids, or packed (N,) with lengths.

    Without a mask, pad ids count as padding unless they also end a sequence, as in the reference.
    Raises ValueError for a shape, type or mask that is none of these, and for an empty row.
    """
    if lengths is not None:
        ids = _unpacked(torch.as_tensor(ids), lengths, mask, name)
    if isinstance(ids, (list, tuple)):
        if mask is not None and not isinstance(ids[0] if ids else None, int):
            mask = torch.as_tensor(mask)
            ids = _tensor(ids, name)
        else:
            return _ragged(ids, pad, device, name)
    ids = _tensor(ids, name)
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; allowed: (batch, tokens), both at least 1")
    ids = ids.to(device)
    if mask is None:
        if pad is None or pad in ends or not bool((ids == pad).any()):
            return Prompt(ids, ids)
        mask = ids != pad
    mask = torch.as_tensor(mask, device=device)
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape != ids.shape:
        raise ValueError(f"the mask of {name} has shape {tuple(mask.shape)}; allowed: {tuple(ids.shape)}")
    real = mask.bool()
    if bool(real.all()):
        return Prompt(ids, ids)
    return Prompt(ids, _left([row[keep] for row, keep in zip(ids, real, strict=True)], -1, ids.shape[1], name), real)


def _tensor(ids: Any, name: str) -> Tensor:
    try:
        ids = torch.as_tensor(ids)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"{name} is no rectangle of numbers; allowed: (batch, tokens) where a mask is given") from None
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} has type {ids.dtype}; allowed: torch.int64 or torch.int32")
    return ids.long()


def _unpacked(ids: Tensor, lengths: Sequence[int], mask: Any, name: str) -> list[list[int]]:
    if mask is not None:
        raise ValueError(f"packed {name} (lengths=...) takes no mask")
    counts = [int(n) for n in lengths]
    if ids.ndim != 1 or sum(counts) != ids.shape[0] or min(counts, default=0) < 1:
        raise ValueError(
            f"packed {name} has shape {tuple(ids.shape)}; allowed: one axis of sum(lengths) = {sum(counts)}"
        )
    return [row.tolist() for row in ids.split(counts)]


def _ragged(ids: Sequence[Any], pad: int | None, device: torch.device, name: str) -> Prompt:
    rows = [ids] if ids and isinstance(ids[0], int) else ids
    if not rows:
        raise ValueError(f"{name} is empty; allowed: at least one list of ids")
    parts = [_tensor(row, name).flatten().to(device) if len(row) else torch.zeros(0).long() for row in rows]
    width = max(len(part) for part in parts)
    return Prompt(_left(parts, 0 if pad is None else pad, width, name), _left(parts, -1, width, name))


def _left(rows: Sequence[Tensor], fill: int, width: int, name: str) -> Tensor:
    for number, row in enumerate(rows):
        if not row.shape[0]:
            raise ValueError(f"{name} row {number} has no tokens; allowed: at least 1 in each row")
    out = rows[0].new_full((len(rows), width), fill)
    for line, row in zip(out, rows, strict=True):
        line[width - row.shape[0] :] = row
    return out
