"""The picture of a sweep: its runs and the law through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regard.extras import need
from regard.tuning.advice import Point
from regard.tuning.scaling import Fit


def sweep_figure(points: Sequence[Point], fit: Fit | None) -> Any:
    """A matplotlib figure: loss by compute with the fitted law, and lines of equal loss over size and tokens.

    Without a fit, only the runs.
    """
    figures, maps = need("matplotlib.figure", "plot"), need("matplotlib", "plot").colormaps["viridis"]
    figure = figures.Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = sorted({p.parameters for p in points})
    n, d = np.array([p.parameters for p in points]), np.array([p.worth for p in points])
    reads = np.geomspace(d.min() / 2, d.max() * 4, 60)
    for i, size in enumerate(sizes):
        colour = maps(0.9 * i / max(len(sizes) - 1, 1))
        own = [p for p in points if p.parameters == size]
        left.scatter(
            [6 * size * p.worth for p in own], [p.loss for p in own], color=colour, label=f"{size:,}", zorder=3
        )
        right.scatter([p.worth for p in own], [size] * len(own), color=colour, edgecolor="white", zorder=3)
        if fit is not None:
            left.plot(6 * size * reads, fit.law.loss(size, reads), color=colour, linewidth=1)
    if fit is not None:
        compute = np.geomspace(6 * n.min() * reads[0], 6 * n.max() * reads[-1], 60)
        best = np.array([fit.law.optimum(c) for c in compute])
        left.plot(compute, fit.law.loss(best[:, 0], best[:, 1]), "k--", linewidth=1.2, label="best for the compute")
        grid = np.geomspace(n.min() / 2, n.max() * 4, 60)
        lines = right.contour(reads, grid, fit.law.loss(grid[:, None], reads[None]), 12, cmap="viridis_r", linewidths=1)
        right.clabel(lines, fontsize=7, fmt="%.2f")
        right.plot(best[:, 1], best[:, 0], "k--", linewidth=1.2)
        right.set_xlim(reads[0], reads[-1])
        right.set_ylim(grid[0], grid[-1])
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    left.set_xlabel("compute, 6 N D (repeated tokens at what they are worth)")
    left.set_ylabel("validation loss")
    if fit is not None and fit.doubts:
        figure.suptitle(f"Not to be relied on: {fit.doubts[0]}", fontsize=9)
    left.legend(frameon=False, fontsize=8, title="parameters", title_fontsize=8)
    right.set_yscale("log")
    right.set_xlabel("tokens")
    right.set_ylabel("parameters without embeddings")
    return figure
