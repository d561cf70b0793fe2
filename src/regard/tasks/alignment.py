"""When each token was said, from where the decoder looked while it wrote: cross-attention and dynamic time warping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.inspect.capture import capture
from regard.models.model import EncoderDecoder, Memory


def token_ends(
    model: EncoderDecoder,
    memory: Memory,
    prefix: Sequence[int],
    tokens: Sequence[int],
    *,
    heads: Sequence[tuple[int, int]],
    moments: int,
    precision: float,
    smooth: int = 7,
) -> list[float]:
    """The second at which each of `tokens` ends, written after `prefix` while looking at one row of `memory`.

    `heads` are (layer, head) pairs whose attention follows the sound; `moments` is how many of the encoder's vectors
    are sound, `precision` the seconds of each. The last token ends as the one before it.
    """
    if len(tokens) < 2:
        return [0.0] * len(tokens)
    ids = torch.tensor([[*prefix, *tokens[:-1]]], device=model.device)
    with capture(model.decoder, "cross_attention") as seen, torch.no_grad():
        model.hidden(ids, memory)
    layers = seen["cross_attention"]
    weights = torch.stack([layers[layer][0, head, len(prefix) :, :moments] for layer, head in heads]).float()
    spread = weights.std(1, keepdim=True, unbiased=False)
    weights = (weights - weights.mean(1, keepdim=True)) / spread.clamp(min=1e-12)
    rows, columns = warp(-median(weights, smooth).mean(0).double().cpu().numpy())
    first = np.append(True, np.diff(rows) > 0)
    ends = (columns[first] * precision).tolist()
    return [*ends, ends[-1]]


def median(x: Tensor, width: int) -> Tensor:
    """The median of `width` neighbours (odd) along the last axis, mirrored at the ends; short input stays as it is."""
    half = width // 2
    if not half or x.shape[-1] <= half:
        return x
    return F.pad(x, (half, half), mode="reflect").unfold(-1, width, 1).median(-1).values


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest path (rows, columns) through (T, S) from its first to its last cell, by steps of one in either or
    both (Sakoe and Chiba 1978). Cells are summed one diagonal at a time."""
    t, s = cost.shape
    total = np.full((t + 1, s + 1), np.inf)
    total[0, 0] = 0
    came = np.zeros((t + 1, s + 1), dtype=np.int8)
    for diagonal in range(2, t + s + 1):
        i = np.arange(max(1, diagonal - s), min(t, diagonal - 1) + 1)
        j = diagonal - i
        both, down, across = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        step = np.where((both < down) & (both < across), 0, np.where((down < both) & (down < across), 1, 2))
        came[i, j] = step
        total[i, j] = cost[i - 1, j - 1] + np.choose(step, (both, down, across))
    row, column, path = t, s, []
    while row > 0 or column > 0:
        path.append((row - 1, column - 1))
        back = 2 if row == 0 else 1 if column == 0 else int(came[row, column])
        row, column = row - (back != 2), column - (back != 1)
    rows, columns = np.array(path[::-1]).T
    return rows, columns
