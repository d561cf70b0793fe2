"""Pictures of attention: a grid of layers x heads, with the tokens along the edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.extras import need

MAX_TOKENS = 64
"""Beyond this the labels cannot be read; the picture shows the first ones and says so."""


def heads_figure(
    weights: Sequence[Tensor], rows: Sequence[str], columns: Sequence[str] | None = None, title: str = ""
) -> Any:
    """A matplotlib figure of weights, one (H, Tq, Tk) per layer; `rows` label queries, `columns` keys (default: rows).

    Raises ValueError if labels and weights differ in number, MissingExtra without matplotlib.
    """
    figures = need("matplotlib.figure", "plot")
    columns = rows if columns is None else columns
    if weights[0].shape[-2:] != (len(rows), len(columns)):
        shape = tuple(weights[0].shape[-2:])
        raise ValueError(f"weights are {shape} but there are {len(rows)} x {len(columns)} labels")
    cut = max(len(rows), len(columns)) > MAX_TOKENS
    rows, columns = [_label(t) for t in rows[:MAX_TOKENS]], [_label(t) for t in columns[:MAX_TOKENS]]
    layers, heads = len(weights), weights[0].shape[0]
    side = max(1.6, min(6.0, 0.16 * max(len(rows), len(columns)) + 0.5))
    figure = figures.Figure(figsize=(heads * side + 1.0, layers * side + 0.8), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    top = max(1e-6, *(float(layer.max()) for layer in weights))
    for i, layer in enumerate(weights):
        for j in range(heads):
            axis = grid[i][j]
            values = layer[j, : len(rows), : len(columns)].float().detach().cpu().numpy()
            drawn = axis.imshow(values, cmap="viridis", vmin=0.0, vmax=top, aspect="auto")
            axis.tick_params(length=0, labelsize=5)
            axis.set_xticks(range(len(columns)), columns if i == layers - 1 else [], rotation=90)
            axis.set_yticks(range(len(rows)), rows if j == 0 else [])
            if i == 0:
                axis.set_title(f"head {j}", fontsize=7)
            if j == heads - 1:
                axis.yaxis.set_label_position("right")
                axis.set_ylabel(f"layer {i}", fontsize=7)
    figure.colorbar(drawn, ax=grid, shrink=min(1.0, 3.0 / (layers * side)), label="weight")
    note = f" (first {MAX_TOKENS} tokens)" if cut else ""
    if title or note:
        figure.suptitle(_label(title, 120) + note, fontsize=9)
    return figure


def _label(text: str, most: int = 14) -> str:
    shown = text.replace("$", r"\$").replace("\n", "\\n").replace("\u0120", "\u2581").replace("\u010a", "\\n")
    return shown if len(shown) <= most else shown[: most - 1] + "\u2026"
